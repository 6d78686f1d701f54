"""Measure the detection methods of a CLIP model with COCO's average precision, and print the tables.

    CLIPC_DATA=/path/to/data python tools/evaluate_detection.py > tables.md
    python tools/evaluate_detection.py --data folder/with/boxes --methods windows --limit 32 --classes

The data are the folder `coco128` of CLIPC_DATA: 256 pictures of COCO with boxes. Looked for are the classes
whose names the model knows, in all pictures. The tables have the time of each method for a picture beside its
scores, and two baselines that do not look at the picture. Needs the extra `clipc[detection]`.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import clipc
from clipc import evaluate

METHODS = ("windows", "dense", "proposals")


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
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="None: all that the model knows")
    parser.add_argument("--templates", nargs="+", default=["{}"], metavar="TEMPLATE")
    parser.add_argument("--threshold", type=float, default=0.0, help="detections of lower scores are dropped")
    parser.add_argument("--max-detections", type=int, default=100, help="in a picture")
    parser.add_argument("--limit", type=int, help="use only so many pictures, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", action="store_true", help="also print the figures of each class")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments = parser.parse_args(arguments)
    if arguments.data is None:
        parser.error("no data: set CLIPC_DATA, or pass --data")
    return arguments


def main(arguments=None):
    arguments = parse_arguments(arguments)
    begin = time.perf_counter()
    model = clipc.load(arguments.model)
    data = evaluate.read_boxes(arguments.data)
    result = evaluate.average_precision(
        data,
        model=model,
        methods=arguments.methods,
        labels=arguments.labels,
        templates=arguments.templates,
        threshold=arguments.threshold,
        max_detections=arguments.max_detections,
        limit=arguments.limit,
        seed=arguments.seed,
        progress=not arguments.quiet,
    )
    print(f"{model!r}, {data!r}, {clipc.get_num_threads()} threads\n")
    print(f"### {result.title}\n\n{result.summary}.\n")
    print(f"{result.to_markdown()}\n\n{result.to_markdown(details=True)}\n")
    if arguments.classes:
        line = "- {method}, {label}: AP50 {AP50:.3f} of {n_boxes} boxes, {n_detections} detections"
        for row in result.class_rows():
            print(line.format(**row))
        print()
    print(f"{result.n_pictures} pictures in {time.perf_counter() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
