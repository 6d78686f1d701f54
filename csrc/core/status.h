/* How the core reports what went wrong.
 *
 * Every function that can fail returns a clipc_status and, when it is not CLIPC_OK, has written one
 * sentence into the caller's clipc_message. The core never prints, exits or aborts; asserts guard
 * internal contracts only, never data that comes from a file or a user.
 */
#ifndef CLIPC_CORE_STATUS_H
#define CLIPC_CORE_STATUS_H

typedef enum {
    CLIPC_OK = 0,
    CLIPC_ERROR_VALUE,   /* an argument has a wrong value or shape */
    CLIPC_ERROR_TYPE,    /* an argument has a wrong type */
    CLIPC_ERROR_MEMORY,  /* memory could not be allocated */
    CLIPC_ERROR_IMAGE,   /* bytes that are not a decodable, complete image */
    CLIPC_ERROR_WEIGHTS, /* a weight file does not hold the model that is asked for */
    CLIPC_INTERRUPTED    /* the caller's poll function asked to stop */
} clipc_status;

/* One sentence: the thing, what was expected, what was found. Empty while nothing has failed. */
typedef struct {
    char text[512];
} clipc_message;

#if defined(__GNUC__)
#define CLIPC_PRINTF(format_index, first_argument) \
    __attribute__((format(printf, format_index, first_argument)))
#else
#define CLIPC_PRINTF(format_index, first_argument)
#endif

/* Writes the sentence into `message` (may be NULL) and returns `status`. */
clipc_status clipc_fail(clipc_message *message, clipc_status status, const char *format, ...)
    CLIPC_PRINTF(3, 4);

/* The same for a failed allocation of `bytes` bytes. */
clipc_status clipc_fail_memory(clipc_message *message, unsigned long long bytes);

#endif
