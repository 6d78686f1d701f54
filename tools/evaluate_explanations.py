"""Measure every explanation method that a ModifiedResNet has, with the embedded model, and print the tables.

    CLIPC_DATA=/path/to/data python tools/evaluate_explanations.py > tables.md
    python tools/evaluate_explanations.py --data folder/with/boxes --methods gradcam surgery --sizes 224

The data are the folder `coco128` of CLIPC_DATA: 256 pictures of COCO with boxes. Used are the classes whose
names the model knows: 703 trials (a picture and a class in it) in 253 pictures.

At 64 pixels one table has all methods and all measures. Larger pictures have two tables:

- the boxes: pointing game and energy, on all pictures, without Score-CAM and gScoreCAM;
- all methods and all measures, on fewer pictures (`--subset`), drawn at random with a fixed seed.

Score-CAM runs the model once for each channel of the target layer (1,024 in `tiny`), gScoreCAM 300 times for
each text, and deletion and insertion twice for each step, method and class. With the default subsets all of
it takes some 30 minutes on two processors. Methods are to be compared within a table, where they have seen
the same pictures.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import clipc
from clipc import evaluate

METHODS = (
    "gradcam",
    "gradcam++",
    "layercam",
    "hirescam",
    "eigencam",
    "scorecam",
    "gscorecam",
    "surgery",
    "maskclip",
)
# Hundreds of encoded pictures for each map.
EXPENSIVE = ("scorecam", "gscorecam")

# Pictures of the tables with all measures, up to an image size; 0: all. One of 224 pixels takes ten times as
# long as one of 64.
SUBSETS = ((64, 0), (sys.maxsize, 24))


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    data = os.environ.get("CLIPC_DATA")
    parser.add_argument(
        "--data", default=Path(data, "coco128") if data else None, help="folder or COCO file with boxes"
    )
    parser.add_argument("--model", default="tiny", help="what clipc.load takes")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 64], metavar="SIZE", help="image sizes")
    parser.add_argument("--layer", help="target layer of the methods that have one")
    parser.add_argument("--template", default="a photo of a {}.")
    parser.add_argument("--fit", default="squash", choices=["squash", "crop", "pad"])
    parser.add_argument("--limit", type=int, help="use only so many pictures in all tables")
    parser.add_argument(
        "--subset",
        type=int,
        help="pictures of the tables with all measures, 0 for all; None: all up to 64 pixels, else 24",
    )
    parser.add_argument("--steps", type=int, default=10, help="of deletion and insertion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", action="store_true", help="also print the figures of each class")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args(arguments)
    if arguments.data is None:
        parser.error("no data: set CLIPC_DATA, or pass --data")
    return arguments


def measure(title, data, model, methods, arguments, **options):
    """Print one table with its heading, and say on standard error how long it took."""
    begin = time.perf_counter()
    if not arguments.quiet:
        print(f"{title}: {', '.join(methods)}", file=sys.stderr)
    if arguments.layer:
        methods = {
            name: {"method": name, "layer": arguments.layer} if "cam" in name else name for name in methods
        }
    results = evaluate.explanations(
        data,
        methods,
        model=model,
        template=arguments.template,
        fit=arguments.fit,
        seed=arguments.seed,
        progress=not arguments.quiet,
        **options,
    )
    first = next(iter(results.values()))
    print(f"### {title}\n\n{results.to_markdown()}\n")
    for evaluation in results.values():
        print(f"- {evaluation.title}. {evaluation.summary}.")
    print(f"\n{results.to_markdown(differences=True)}\n")
    if arguments.classes:
        for row in results.class_rows():
            print("- {measure}, {method}, {label}: {score:.3f} of {n_trials}".format(**row))
        print()
    sys.stdout.flush()
    seconds = time.perf_counter() - begin
    print(f"{title}: {first.n_trials} trials in {seconds:.0f} s", file=sys.stderr)


def main(arguments=None):
    arguments = parse_arguments(arguments)
    model = clipc.load(arguments.model)
    data = evaluate.read_boxes(arguments.data)
    cheap = [name for name in arguments.methods if name not in EXPENSIVE]
    print(f"{model!r}, {data!r}\n")
    for size in arguments.sizes:
        subset = arguments.subset
        if subset is None:
            subset = next(pictures for largest, pictures in SUBSETS if size <= largest)
        if cheap and subset:
            measure(
                f"Boxes at {size} x {size}",
                data,
                model,
                cheap,
                arguments,
                measures=("pointing", "energy"),
                image_size=size,
                limit=arguments.limit,
            )
        limits = [limit for limit in (subset, arguments.limit) if limit]
        measure(
            f"All measures at {size} x {size}",
            data,
            model,
            arguments.methods,
            arguments,
            steps=arguments.steps,
            image_size=size,
            limit=min(limits, default=None),
        )


if __name__ == "__main__":
    main()
