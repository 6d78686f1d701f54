"""The Python surface of a model: classification, label matrices, unknown words, processes and threads."""

import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from availability import require
from threads_left import threads_of_clipc

import clipc
from clipc.prediction import Prediction

LABELS = ["dog", "lion", "bridge", "teapot"]


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


@pytest.fixture(scope="module")
def picture():
    """A (90, 120, 3) picture of smooth colours."""
    y, x = np.mgrid[0:90, 0:120]
    return np.stack([x * 2, y * 2, 255 - x - y], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).normal(size=(6, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def files():
    """Twelve PNG files of several sizes, as bytes."""
    Image = pytest.importorskip("PIL.Image")
    contents = []
    for n in range(12):
        y, x = np.mgrid[0 : 60 + 9 * n, 0 : 150 - 5 * n]
        buffer = io.BytesIO()
        Image.fromarray(np.stack([x, y, x + y + n], axis=-1).astype(np.uint8)).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    return contents


# -- encoding and similarity -----------------------------------------------------------------------------


def test_shapes_and_types(tiny, picture):
    assert tiny.preprocess(picture).shape == (1, 3, 64, 64)
    assert tiny.preprocess([picture, picture]).shape == (2, 3, 64, 64)
    for features in (tiny.encode_image(picture), tiny.encode_text("dog")):
        assert features.shape == (1, 256) and features.dtype == np.float32
    assert tiny.encode_image([picture] * 3).shape == (3, 256)
    assert tiny.encode_text(LABELS).shape == (4, 256)


def test_normalize(tiny, pixels):
    raw, unit = tiny.encode_image(pixels), tiny.encode_image(pixels, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


def test_similarity_is_scaled_cosine(tiny, pixels):
    images, texts = tiny.encode_image(pixels).astype(np.float64), tiny.encode_text(LABELS).astype(np.float64)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    np.testing.assert_allclose(
        tiny.similarity(pixels, LABELS), tiny.logit_scale * images @ texts.T, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_batch_size_changes_nothing(tiny, picture, batch_size):
    pictures = [np.roll(picture, 5 * i, axis=1) for i in range(7)]
    expected = tiny.encode_image(pictures, normalize=True)
    np.testing.assert_allclose(
        tiny.encode_image(pictures, normalize=True, batch_size=batch_size), expected, atol=2e-6
    )


@pytest.mark.parametrize("threads", [1, 4])
def test_files_give_what_preprocessed_pictures_give(tiny, files, use_threads, threads):
    use_threads(threads)
    pixels = np.concatenate([tiny.preprocess(file) for file in files])
    np.testing.assert_array_equal(tiny.preprocess(files), pixels)
    # Which pictures share a batch decides how matrix products are rounded, so batches are the same here.
    expected = np.concatenate([tiny.encode_image(pixels[begin : begin + 5]) for begin in range(0, 12, 5)])
    np.testing.assert_array_equal(tiny.encode_image(files, batch_size=5), expected)
    # Other labels than elsewhere: their features are kept, and so is what this number of threads rounds.
    labels = ["a road", "a river"]
    assert tiny.classify(files, labels, batch_size=5) == tiny.classify(expected, labels)
    assert threads_of_clipc() == []


@pytest.mark.parametrize("threads", [1, 4])
def test_position_of_an_unreadable_picture(tiny, files, use_threads, threads):
    use_threads(threads)
    for position in (0, 4, 5, 11):
        images = [*files[:position], b"no picture", *files[position + 1 :], b""]
        with pytest.raises(clipc.ImageError, match=rf"^images\[{position}\]: .*no picture"):
            tiny.encode_image(images, batch_size=5)


def test_texts_from_a_generator(tiny):
    with pytest.warns(clipc.ClipcWarning, match="'kubernetes'"):
        features = tiny.encode_text(word for word in ("dog", "kubernetes"))
    np.testing.assert_allclose(features[:1], tiny.encode_text("dog"), atol=2e-5)


def test_tokens_are_taken_as_texts(tiny):
    np.testing.assert_array_equal(tiny.encode_text(clipc.tokenize(LABELS)), tiny.encode_text(LABELS))


def test_padding_is_not_computed(tiny):
    """A text alone and beside a long one: the same rows; and fewer positions than 77 give the same too."""
    tokens = clipc.tokenize(["dog"])
    np.testing.assert_array_equal(tiny.encode_text(tokens[:, :3]), tiny.encode_text(tokens))


# -- classification --------------------------------------------------------------------------------------


def test_prediction_prints_as_the_presentation_did():
    prediction = Prediction.from_probabilities(["Doctor", "Nurse"], [0.3008, 0.6992])
    assert str(prediction) == "Top predictions: Nurse: 69.92% Doctor: 30.08%"
    assert (
        list(prediction) == ["Nurse", "Doctor"]
        and prediction.label == "Nurse"
        and prediction.probability == 0.6992
    )
    assert pickle.loads(pickle.dumps(prediction)) == prediction


def test_of_many_labels_the_first_are_printed():
    prediction = Prediction.from_probabilities([f"label {i}" for i in range(100)], np.arange(100) / 4950)
    assert str(prediction).startswith("Top predictions: label 99: 2.00% label 98")
    assert str(prediction).endswith("label 90: 1.82% (90 more)") and len(prediction) == 100
    assert "80 more" in prediction._repr_html_()


def test_prediction_in_jupyter_escapes_labels():
    shown = Prediction.from_probabilities(["<script>alert(1)</script>", "b"], [0.9, 0.1])._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "90.00%" in shown


def test_classify_is_a_softmax_of_similarities(tiny, pixels):
    logits = tiny.similarity(pixels, LABELS).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predictions = tiny.classify(pixels, LABELS)
    assert len(predictions) == len(pixels)
    for prediction, row in zip(predictions, expected):
        np.testing.assert_allclose([prediction[label] for label in LABELS], row, atol=1e-6)
        assert list(prediction.values()) == sorted(prediction.values(), reverse=True)
        assert sum(prediction.values()) == pytest.approx(1)


def test_one_image_gives_one_prediction_a_list_gives_a_list(tiny, picture):
    single = tiny.classify(picture, LABELS)
    several = tiny.classify([picture], LABELS)
    assert isinstance(single, Prediction) and isinstance(several, list) and len(several) == 1
    assert single == several[0]
    assert str(tiny.classify([picture] * 2, LABELS)).count("\n") == 1


def test_features_in_place_of_images(tiny, pixels):
    features = tiny.encode_image(pixels)
    for found, expected in zip(tiny.classify(features, LABELS), tiny.classify(pixels, LABELS)):
        assert found == pytest.approx(expected, abs=1e-6)
    assert tiny.classify(features[0], LABELS) == pytest.approx(tiny.classify(features, LABELS)[0], abs=1e-6)


def test_top_k(tiny, pixels):
    everything, best = tiny.classify(pixels, LABELS), tiny.classify(pixels, LABELS, top_k=2)
    for all_labels, two in zip(everything, best):
        assert list(two.items()) == list(all_labels.items())[:2]
    assert len(tiny.classify(pixels[:1], LABELS, top_k=99)[0]) == len(LABELS)


def test_one_label_is_certain(tiny, picture):
    assert tiny.classify(picture, ["dog"]) == {"dog": 1.0}


def test_prompt_ensemble_is_the_mean_of_unit_features(tiny):
    templates = ["{}", "a photo of a {}.", "a blurry photo of a {}."]
    prompts = [[template.replace("{}", label) for template in templates] for label in LABELS]
    expected = np.stack([tiny.encode_text(of_label, normalize=True).mean(axis=0) for of_label in prompts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(tiny.classifier(LABELS, templates), expected, atol=1e-6)


def test_classifier_is_cached_and_read_only(tiny):
    matrix = tiny.classifier(LABELS)
    assert tiny.classifier(tuple(LABELS)) is matrix
    assert tiny.classifier(LABELS, "a {}") is not matrix
    with pytest.raises(ValueError):
        matrix[0, 0] = 1


@pytest.mark.filterwarnings("ignore::clipc.ClipcWarning")
def test_braces_in_labels_are_plain_text(tiny):
    assert tiny.classifier(["{}", "{0}", "a {b}"]).shape == (3, 256)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([],), ValueError, "labels: expected at least one text"),
        ((None,), TypeError, "labels: expected str or a sequence of str"),
        (({"dog", "cat"},), TypeError, "labels: expected str or a sequence of str"),
        (("dog",), TypeError, r"single text 'dog'; write \['dog'\]"),
        ((["dog", 3],), TypeError, r"labels\[1\]: expected str, got int"),
        ((["dog", "cat", "dog"],), ValueError, "'dog' is given more than once"),
        ((["dog"], []), ValueError, "templates: expected at least one text"),
        ((["dog"], ["a photo"]), ValueError, "has no {}"),
        ((["dog"], [7]), TypeError, r"templates\[0\]: expected str"),
        ((["word " * 100],), ValueError, "too long"),
    ],
)
def test_wrong_labels(tiny, arguments, error, text):
    with pytest.raises(error, match=text):
        tiny.classifier(*arguments)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"top_k": 0}, ValueError),
        ({"top_k": "3"}, TypeError),
        ({"top_k": True}, TypeError),
        ({"batch_size": 0}, ValueError),
        ({"batch_size": 1.5}, TypeError),
    ],
)
def test_wrong_options(tiny, picture, options, error):
    with pytest.raises(error, match=next(iter(options))):
        tiny.classify([picture], LABELS, **options)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        ([], ValueError, "empty"),
        (np.zeros((2, 3, 32, 32), np.float32), ValueError, "64"),
        (np.zeros((0, 3, 64, 64), np.float32), ValueError, "0, 3, 64, 64"),
        (np.full((1, 3, 64, 64), np.nan, np.float32), ValueError, "NaN"),
        (np.zeros((3, 255), np.float32), ValueError, "256"),
        (np.full((3, 256), np.inf, np.float32), ValueError, "finite"),
        (np.zeros((3, 64, 64)), TypeError, "float64"),
        (3, TypeError, "int"),
        (None, TypeError, "NoneType"),
        ([None], TypeError, r"images\[0\].*NoneType"),
    ],
)
def test_wrong_images(tiny, images, error, text):
    with pytest.raises(error, match=text):
        tiny.classify(images, LABELS)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (np.zeros((1, 78), np.int32), "77"),
        (np.zeros((0, 77), np.int32), "tokens"),
        (np.zeros(77, np.int32), "tokens"),
        (np.full((1, 77), 49408), "49407"),
        (np.full((1, 77), -1), "49407"),
        (np.array([[49406, 320, 0, 0]]), "end token"),
        (np.full((1, 5), 2**40), "49407"),
    ],
)
def test_wrong_tokens(tiny, tokens, text):
    with pytest.raises(ValueError, match=text):
        tiny.encode_text(tokens)


# -- what tiny does not know -----------------------------------------------------------------------------


def test_knows(tiny):
    assert tiny.knows("a photo of a dog") and tiny.knows("")
    assert not tiny.knows("kubernetes dog")
    with pytest.raises(TypeError):
        tiny.knows(["dog"])


def test_unknown_words_warn_once_and_are_named():
    model = clipc.load("tiny")
    with pytest.warns(clipc.ClipcWarning, match="'kubernetes'") as caught:
        model.encode_text(["a dog", "kubernetes dog"])
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_text(["kubernetes", "a dog"])
        model.encode_text(["a photo of a dog."])
    with pytest.warns(clipc.ClipcWarning, match="'grafana'"):
        model.encode_text("kubernetes grafana")


# -- loading, the default model --------------------------------------------------------------------------


def test_attributes_and_repr(tiny):
    assert (tiny.name, tiny.embed_dim, tiny.image_size, tiny.context_length) == ("tiny", 256, 64, 77)
    assert 1 < tiny.logit_scale <= 100 and tiny.dtype == "float32"
    assert "tiny" in repr(tiny) and "heads 16" in repr(tiny) and "quick_gelu" in repr(tiny)


def test_load_refuses_other_dtypes():
    with pytest.raises(ValueError, match="dtype: expected one of float32, got 'float8'"):
        clipc.load("tiny", dtype="float8")


def run_python(code, **environment):
    env = {key: value for key, value in os.environ.items() if key != "CLIPC_MODEL"} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)


def test_default_model_is_tiny_with_one_warning():
    run = run_python(
        "import clipc, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    clipc.encode_text('dog'); clipc.encode_text('cat'); print(clipc.load().name)\n"
        "print(len(caught), caught[0].category.__name__, caught[0].message)"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(
        "tiny\n1 ClipcWarning no model was chosen, so clipc uses the small embedded model"
    )


def test_a_folder_named_tiny_does_not_replace_the_default_model(tmp_path):
    (tmp_path / "tiny").mkdir()
    run = run_python(f"import clipc, os; os.chdir({str(tmp_path)!r}); print(clipc.load().embed_dim)")
    assert run.stdout == "256\n", run.stderr


def test_default_model_from_the_environment(tiny):
    run = run_python(
        "import clipc; print(clipc.load().name, clipc.load().embed_dim)", CLIPC_MODEL=str(tiny.path)
    )
    assert run.stdout == "tiny 256\n" and "no model was chosen" not in run.stderr
    run = run_python("import clipc; clipc.encode_text('dog')", CLIPC_MODEL="ViT-B/23")
    assert "ValueError" in run.stderr and "ViT-B/32" in run.stderr


def test_functions_of_the_module(tiny, picture):
    assert clipc.classify(picture, LABELS, model=tiny) == tiny.classify(picture, LABELS)
    assert clipc.classify(picture, LABELS, model="tiny") == tiny.classify(picture, LABELS)
    np.testing.assert_array_equal(clipc.encode_text("dog", model=tiny), tiny.encode_text("dog"))
    assert clipc.knows("dog", model=tiny)
    assert "tiny" in clipc.available_models() and "ViT-B/32" in clipc.available_models()


def test_show_config(capsys):
    clipc.show_config()
    printed = capsys.readouterr().out
    config = clipc.show_config("dicts")
    products = config["matrix products"]
    assert "OpenBLAS" in products and clipc._core.build_info()["gemm_kernels"] in products
    assert config["threads"] == clipc.get_num_threads()
    assert all(str(value) in printed for value in config.values())


# -- threads, processes, signals -------------------------------------------------------------------------


def test_number_of_threads(tiny, pixels):
    before = clipc.get_num_threads()
    try:
        expected = tiny.encode_image(pixels, normalize=True)
        for n in (1, 2, 3, 8):
            clipc.set_num_threads(n)
            assert clipc.get_num_threads() == n
            np.testing.assert_allclose(tiny.encode_image(pixels, normalize=True), expected, atol=2e-6)
    finally:
        clipc.set_num_threads(before)
    for wrong, error in (
        (0, ValueError),
        (-1, ValueError),
        (10**9, ValueError),
        ("2", TypeError),
        (1.5, TypeError),
    ):
        with pytest.raises(error):
            clipc.set_num_threads(wrong)


def test_one_model_in_many_threads(tiny, pixels):
    expected = tiny.encode_image(pixels), tiny.encode_text(LABELS)
    with ThreadPoolExecutor(8) as executor:
        for images, texts in executor.map(
            lambda _: (tiny.encode_image(pixels), tiny.encode_text(LABELS)), range(64)
        ):
            np.testing.assert_allclose(images, expected[0], atol=2e-5)
            np.testing.assert_allclose(texts, expected[1], atol=2e-5)


def test_the_interpreter_runs_while_a_model_encodes(tiny):
    """The GIL is released: another thread counts on while one encode is under way."""
    pixels = np.zeros((400, 3, 64, 64), np.float32)
    done, counted = threading.Event(), 0
    threads = clipc.get_num_threads()
    clipc.set_num_threads(1)  # long enough on any machine
    try:
        thread = threading.Thread(target=lambda: (tiny._core.encode_images(pixels), done.set()))
        thread.start()
        while not done.is_set():
            counted += 1
            time.sleep(0.001)
        thread.join()
    finally:
        clipc.set_num_threads(threads)
    assert counted > 3


def _classify_in_child(arguments):
    model, pixels = arguments
    return model.classify(pixels, LABELS)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(tiny, pixels, method):
    """Models go to other processes by their path; a child that is forked after use computes as well."""
    expected = tiny.classify(pixels, LABELS)
    with multiprocessing.get_context(method).Pool(2) as pool:
        # Not for ever: a child that cannot import clipc ends, and its task is never answered.
        waiting = pool.map_async(_classify_in_child, [(tiny, pixels)] * 4, chunksize=1)
        for found in waiting.get(timeout=120):
            for one, other in zip(found, expected):
                assert one == pytest.approx(other, abs=1e-5)


def test_fork_while_another_thread_encodes(tiny, pixels):
    stop = threading.Event()

    def encode():
        while not stop.is_set():
            tiny.encode_image(pixels)

    thread = threading.Thread(target=encode)
    thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if tiny.encode_image(pixels).shape == (6, 256) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


def test_files_in_many_threads(tiny, files, use_threads):
    use_threads(3)
    expected = tiny.encode_image(files)
    with ThreadPoolExecutor(6) as executor:
        for found in executor.map(lambda _: tiny.encode_image(files), range(24)):
            np.testing.assert_allclose(found, expected, atol=2e-4)


def test_fork_while_another_thread_preprocesses(tiny, files, use_threads):
    use_threads(3)
    expected = tiny.preprocess(files)
    stop = threading.Event()

    def preprocess():
        while not stop.is_set():
            tiny.preprocess(files)

    thread = threading.Thread(target=preprocess)
    thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if np.array_equal(tiny.preprocess(files), expected) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


def test_pickling(tiny, pixels):
    copy = pickle.loads(pickle.dumps(tiny))
    assert len(pickle.dumps(tiny)) < 2000
    assert copy.config == tiny.config
    np.testing.assert_array_equal(copy.encode_image(pixels), tiny.encode_image(pixels))


def test_ctrl_c_stops_a_long_batch():
    process = subprocess.Popen(
        [sys.executable, "-c",
         "import clipc, numpy as np\n"
         "clipc.set_num_threads(1)\n"  # several seconds on any machine
         "model = clipc.load('tiny'); pixels = np.zeros((6400, 3, 64, 64), np.float32)\n"
         "print('ready', flush=True)\n"
         "model._core.encode_images(pixels)\n"
         "print('finished', flush=True)"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in err and "finished" not in out


@pytest.mark.parametrize("handled", [True, False])
def test_ctrl_c_while_pictures_are_preprocessed(files, tmp_path, handled):
    """The threads have ended when the caller hears of it, and the process can end."""
    path = tmp_path / "picture.png"
    path.write_bytes(files[-1])
    program = (
        "import clipc, sys, threading\n"
        "clipc.set_num_threads(4)\n"
        "model = clipc.load('tiny')\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    model.preprocess([sys.argv[1]] * 20_000)\n"  # several seconds on any machine
        "    print('finished', flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    print(threading.active_count(), 'thread', flush=True)\n"
        "    if not int(sys.argv[2]):\n"
        "        raise\n"
        "    print(model.preprocess([sys.argv[1]] * 10).shape, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(int(handled))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out == "1 thread\n" + "(10, 3, 64, 64)\n" * handled
    assert ("KeyboardInterrupt" in err) != handled


@pytest.mark.full
@pytest.mark.memory
def test_no_memory_is_kept_by_calls(tiny, pixels):
    resource = pytest.importorskip("resource")
    tiny.encode_image(pixels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(300):
        tiny.encode_image(pixels)
        tiny.encode_text(LABELS)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000, f"{grown} KiB more after 300 calls"


def test_torch_in_the_same_process(tiny, pixels):
    """PyTorch brings OpenMP and another BLAS; both work on afterwards."""
    torch = require("torch")
    expected = tiny.encode_image(pixels)
    a = torch.randn(300, 300)
    b = a @ a
    np.testing.assert_allclose(tiny.encode_image(pixels), expected, atol=2e-5)
    np.testing.assert_allclose((a @ a).numpy(), b.numpy(), rtol=1e-5)
