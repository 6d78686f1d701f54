#define _GNU_SOURCE /* sched_getaffinity */
#include "core/threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

/* Waiting starts with a short spin: a layer is often over before a sleeping thread would have woken.
 * About 20 microseconds; after that the thread sleeps, so an idle pool costs nothing. */
#define SPIN_ROUNDS 2000

typedef struct {
    clipc_task task;
    void *context;
    size_t n_tasks;
} loop_job;

static struct {
    pthread_mutex_t lock; /* guards everything below that is not atomic */
    pthread_cond_t wake;  /* workers wait here for a job */
    pthread_cond_t idle;  /* the caller waits here until no worker is in its job */
    pthread_t workers[CLIPC_MAX_THREADS - 1];
    int n_workers; /* running */
    int n_in_job;  /* workers that have seen the current job and not yet left it */
    bool stopping; /* workers leave when they see it */
    loop_job job;
    atomic_uint generation; /* changes when a job is posted */
    atomic_bool job_open;   /* workers may still join the current job */
    atomic_size_t next_task;
    atomic_int n_threads; /* wanted, the caller included */
} pool = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .idle = PTHREAD_COND_INITIALIZER};

/* Held by the caller whose loop runs on the pool. */
static pthread_mutex_t pool_user = PTHREAD_MUTEX_INITIALIZER;

/* Loops that are running now. fork() waits until there are none: the child then finds no lock of the
 * pool or of OpenBLAS held by a thread that no longer exists. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int n_loops;
    bool forking;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* One fork at a time; held from before_fork to the handlers after it. */
static pthread_mutex_t fork_user = PTHREAD_MUTEX_INITIALIZER;

static _Thread_local bool inside_loop = false;

static inline void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void run_tasks(const loop_job *job)
{
    inside_loop = true;
    for (;;) {
        const size_t i = atomic_fetch_add_explicit(&pool.next_task, 1, memory_order_relaxed);
        if (i >= job->n_tasks) {
            break;
        }
        job->task(job->context, i);
    }
    inside_loop = false;
}

static void *worker_main(void *unused)
{
    (void)unused;
    unsigned seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (!pool.stopping && !(atomic_load(&pool.job_open) && atomic_load(&pool.generation) != seen)) {
            pthread_mutex_unlock(&pool.lock);
            for (int i = 0;
                 i < SPIN_ROUNDS && atomic_load_explicit(&pool.generation, memory_order_relaxed) == seen;
                 i++) {
                spin_pause();
            }
            pthread_mutex_lock(&pool.lock);
            if (!pool.stopping && !(atomic_load(&pool.job_open) && atomic_load(&pool.generation) != seen)) {
                seen = atomic_load(&pool.generation);
                pthread_cond_wait(&pool.wake, &pool.lock);
            }
        }
        if (pool.stopping) {
            break;
        }
        seen = atomic_load(&pool.generation);
        const loop_job job = pool.job;
        pool.n_in_job++;
        pthread_mutex_unlock(&pool.lock);

        run_tasks(&job);

        pthread_mutex_lock(&pool.lock);
        if (--pool.n_in_job == 0) {
            pthread_cond_signal(&pool.idle);
        }
    }
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

/* Ends all workers. The caller holds pool_user. */
static void stop_workers(void)
{
    pthread_mutex_lock(&pool.lock);
    pool.stopping = true;
    pthread_cond_broadcast(&pool.wake);
    const int n = pool.n_workers;
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < n; i++) {
        pthread_join(pool.workers[i], NULL);
    }
    pthread_mutex_lock(&pool.lock);
    pool.n_workers = 0;
    pool.stopping = false;
    pthread_mutex_unlock(&pool.lock);
}

/* Makes workers until there are n, or as many as the system allows: fewer threads is slower, not wrong.
 * The caller holds pool_user. */
static void start_workers(int n)
{
    /* Signals are for the threads that Python knows. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.n_workers < n) {
        if (pthread_create(&pool.workers[pool.n_workers], NULL, worker_main, NULL) != 0) {
            break;
        }
        pool.n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void gate_enter(void)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.forking) {
        pthread_cond_wait(&gate.changed, &gate.lock);
    }
    gate.n_loops++;
    pthread_mutex_unlock(&gate.lock);
}

static void gate_leave(void)
{
    pthread_mutex_lock(&gate.lock);
    gate.n_loops--;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

static void run_alone(size_t n_tasks, clipc_task task, void *context)
{
    /* A loop inside must not enter the gate again: a fork in between would wait for this loop, and it for
     * the fork. */
    const bool outer = inside_loop;
    inside_loop = true;
    for (size_t i = 0; i < n_tasks; i++) {
        task(context, i);
    }
    inside_loop = outer;
}

static void run_on_pool(size_t n_tasks, clipc_task task, void *context)
{
    start_workers(clipc_get_num_threads() - 1);
    const loop_job job = {task, context, n_tasks};

    pthread_mutex_lock(&pool.lock);
    pool.job = job;
    atomic_store(&pool.next_task, 0);
    atomic_store(&pool.job_open, true);
    atomic_fetch_add(&pool.generation, 1);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);

    run_tasks(&job);

    /* No task is left. Workers that have not looked yet must not start; those inside finish theirs. */
    atomic_store(&pool.job_open, false);
    pthread_mutex_lock(&pool.lock);
    for (int i = 0; i < SPIN_ROUNDS && pool.n_in_job > 0; i++) {
        pthread_mutex_unlock(&pool.lock);
        spin_pause();
        pthread_mutex_lock(&pool.lock);
    }
    while (pool.n_in_job > 0) {
        pthread_cond_wait(&pool.idle, &pool.lock);
    }
    pthread_mutex_unlock(&pool.lock);
}

void clipc_parallel_for(size_t n_tasks, clipc_task task, void *context)
{
    if (n_tasks == 0) {
        return;
    }
    if (inside_loop) {
        run_alone(n_tasks, task, context);
        return;
    }
    gate_enter();
    if (n_tasks > 1 && clipc_get_num_threads() > 1 && pthread_mutex_trylock(&pool_user) == 0) {
        run_on_pool(n_tasks, task, context);
        pthread_mutex_unlock(&pool_user);
    } else {
        run_alone(n_tasks, task, context);
    }
    gate_leave();
}

int clipc_get_num_threads(void)
{
    return atomic_load(&pool.n_threads);
}

clipc_status clipc_set_num_threads(int n, clipc_message *message)
{
    if (n < 1 || n > CLIPC_MAX_THREADS) {
        return clipc_fail(message, CLIPC_ERROR_VALUE, "number of threads: expected 1 to %d, got %d",
                          CLIPC_MAX_THREADS, n);
    }
    gate_enter(); /* a fork meanwhile would lose the workers that are being joined */
    pthread_mutex_lock(&pool_user);
    atomic_store(&pool.n_threads, n);
    if (pool.n_workers > n - 1) {
        stop_workers();
    }
    pthread_mutex_unlock(&pool_user);
    gate_leave();
    return CLIPC_OK;
}

static void before_fork(void)
{
    pthread_mutex_lock(&fork_user);
    pthread_mutex_lock(&gate.lock);
    gate.forking = true;
    while (gate.n_loops > 0) {
        pthread_cond_wait(&gate.changed, &gate.lock);
    }
    pthread_mutex_unlock(&gate.lock);
    pthread_mutex_lock(&pool_user);
    pthread_mutex_lock(&pool.lock);
    pthread_mutex_lock(&gate.lock);
}

static void after_fork_in_parent(void)
{
    gate.forking = false;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool_user);
    pthread_mutex_unlock(&fork_user);
}

static void after_fork_in_child(void)
{
    /* The workers exist only in the parent; so do the threads that waited on these conditions. */
    static const pthread_cond_t fresh_condition = PTHREAD_COND_INITIALIZER;
    static const pthread_mutex_t fresh_mutex = PTHREAD_MUTEX_INITIALIZER;
    pool.n_workers = 0;
    pool.n_in_job = 0;
    pool.stopping = false;
    atomic_store(&pool.job_open, false);
    gate.forking = false;
    gate.n_loops = 0;
    memcpy(&pool.wake, &fresh_condition, sizeof fresh_condition);
    memcpy(&pool.idle, &fresh_condition, sizeof fresh_condition);
    memcpy(&gate.changed, &fresh_condition, sizeof fresh_condition);
    memcpy(&gate.lock, &fresh_mutex, sizeof fresh_mutex);
    memcpy(&pool.lock, &fresh_mutex, sizeof fresh_mutex);
    memcpy(&pool_user, &fresh_mutex, sizeof fresh_mutex);
    memcpy(&fork_user, &fresh_mutex, sizeof fresh_mutex);
}

/* Whole processors that a "quota period" pair allows, rounded up; 0 for no limit. */
static int processors_of_quota(double quota, double period)
{
    if (quota <= 0 || period <= 0) {
        return 0;
    }
    const double processors = quota / period;
    const int whole = (int)processors;
    return whole + (processors > whole);
}

static int cgroup_processors(void)
{
    double quota = 0, period = 0;
    int found = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r"); /* version 2: "max 100000" or "200000 100000" */
    if (file != NULL) {
        if (fscanf(file, "%lf %lf", &quota, &period) == 2) {
            found = processors_of_quota(quota, period);
        }
        fclose(file);
        return found;
    }
    FILE *quota_file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r"); /* version 1; -1 for no limit */
    FILE *period_file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
    if (quota_file != NULL && period_file != NULL && fscanf(quota_file, "%lf", &quota) == 1 &&
        fscanf(period_file, "%lf", &period) == 1) {
        found = processors_of_quota(quota, period);
    }
    if (quota_file != NULL) {
        fclose(quota_file);
    }
    if (period_file != NULL) {
        fclose(period_file);
    }
    return found;
}

static int default_num_threads(void)
{
    int n = 0;
#if defined(__linux__)
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
        n = CPU_COUNT(&mask);
    }
#endif
    if (n < 1) {
        n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    }
    const int quota = cgroup_processors();
    if (quota > 0 && quota < n) {
        n = quota;
    }
    return n < 1 ? 1 : n > CLIPC_MAX_THREADS ? CLIPC_MAX_THREADS : n;
}

clipc_status clipc_threads_init(clipc_message *message)
{
    static bool registered = false;
    if (registered) {
        return CLIPC_OK;
    }
    if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0) {
        return clipc_fail_memory(message, 0);
    }
    registered = true;
    atomic_store(&pool.n_threads, default_num_threads());
    return CLIPC_OK;
}
