"""Concepts and captions.

The concepts are the WordNet names and hypernyms of Tiny ImageNet's classes and the names and superclasses
of CIFAR-100's.

build(tiny_imagenet, cifar100, wordnet) -> (wnids, cifar_names, classes, names, synonyms)
classes[i] = (leaf concept, all concepts that hold for the class); names[c], synonyms[c] = texts of concept c.
"""

import os
import re

SUPERCLASSES = {
    "aquatic mammal": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flower": "orchid poppy rose sunflower tulip",
    "container": "bottle bowl can cup plate",
    "fruit": "apple orange pear",
    "vegetable": "mushroom sweet_pepper",
    "household electrical device": "clock keyboard lamp telephone television",
    "furniture": "bed chair couch table wardrobe",
    "insect": "bee beetle butterfly caterpillar cockroach",
    "large carnivore": "bear leopard lion tiger wolf",
    "building": "castle house skyscraper",
    "structure": "bridge castle house road skyscraper",
    "outdoor scene": "cloud forest mountain plain sea",
    "large herbivore": "camel cattle chimpanzee elephant kangaroo",
    "mammal": (
        "fox porcupine possum raccoon skunk bear leopard lion tiger wolf camel cattle chimpanzee "
        "elephant kangaroo hamster mouse rabbit shrew squirrel beaver dolphin otter seal whale"
    ),
    "invertebrate": "crab lobster snail spider worm",
    "person": "baby boy girl man woman",
    "child": "baby boy girl",
    "reptile": "crocodile dinosaur lizard snake turtle",
    "rodent": "hamster mouse squirrel beaver porcupine",
    "tree": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicle": "bicycle bus motorcycle pickup_truck train lawn_mower rocket streetcar tank tractor",
    "truck": "pickup_truck",
    "car": "pickup_truck",
    "animal": (
        "aquarium_fish flatfish ray shark trout bee beetle butterfly caterpillar cockroach fox "
        "porcupine possum raccoon skunk bear leopard lion tiger wolf camel cattle chimpanzee elephant "
        "kangaroo hamster mouse rabbit shrew squirrel beaver dolphin otter seal whale crab lobster "
        "snail spider worm crocodile dinosaur lizard snake turtle"
    ),
    "plant": "maple_tree oak_tree palm_tree pine_tree willow_tree orchid poppy rose sunflower tulip",
    "food": "apple orange pear mushroom sweet_pepper",
    "landscape": "cloud forest mountain plain sea",
    "big cat": "leopard lion tiger",
    "primate": "chimpanzee",
    "bear": "bear",
    "monkey": "chimpanzee",
    "snake": "snake",
    "spider": "spider",
    "lobster": "lobster",
    "crab": "crab",
    "butterfly": "butterfly",
    "beetle": "beetle",
    "mushroom": "mushroom",
    "bottle": "bottle",
    "lion": "lion",
    "elephant": "elephant",
    "bus": "bus",
}

TOO_ABSTRACT = {
    "entity", "physical entity", "object", "whole", "artifact", "matter", "living thing", "organism",
    "causal agent", "abstraction", "instrumentality", "chordate", "vertebrate", "placental", "relation",
    "physical object", "thing", "unit", "substance", "solid", "nutriment", "covering", "attribute",
    "arthropod", "invertebrate", "commodity", "consumer goods", "causal agency", "physical substance",
    "part", "implement", "equipment", "geological formation", "way", "foodstuff", "worker", "creation",
}  # fmt: skip

TEMPLATES = [
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "a blurry photo of a {}.",
    "a close-up photo of a {}.",
    "a photo of one {}.",
    "a bright photo of a {}.",
    "this is a {}",
    "an image of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
]


def read_wordnet(folder):
    synsets = {}
    for line in open(os.path.join(folder, "data.noun"), encoding="utf8"):
        if line.startswith("  "):
            continue
        f = line.split(" | ")[0].split()
        n = int(f[3], 16)
        k = 4 + 2 * n
        lemmas = [f[4 + 2 * i].replace("_", " ") for i in range(n)]
        pointers = [(f[k + 1 + 4 * i], f[k + 2 + 4 * i]) for i in range(int(f[k]))]
        synsets[f[0]] = (lemmas, [target for symbol, target in pointers if symbol in ("@", "@i")])
    return synsets


def hypernyms(synsets, offset):
    found, queue = [], list(synsets[offset][1])
    while queue:
        x = queue.pop(0)
        if x not in found:
            found.append(x)
            queue += synsets[x][1]
    return found


def build(tiny_imagenet, cifar100, wordnet):
    wnids = open(os.path.join(tiny_imagenet, "wnids.txt")).read().split()
    cifar = sorted(os.listdir(os.path.join(cifar100, "train")))
    synsets = read_wordnet(wordnet)
    ids, synonyms, classes = {}, [], []

    def concept(name, others=()):
        if name not in ids:
            ids[name] = len(ids)
            synonyms.append(list(dict.fromkeys([name, *others])))
        return ids[name]

    above = {w: hypernyms(synsets, w[1:]) for w in wnids}
    count = {}
    for w in wnids:
        for h in above[w]:
            count[h] = count.get(h, 0) + 1
    for w in wnids:
        lemmas = synsets[w[1:]][0]
        lemmas = [
            x for x in lemmas if not re.match(r"^[A-Z][a-z]+ [a-z]+$", x)
        ] or lemmas  # no Latin binomials first
        leaf = concept(lemmas[0].lower(), [x.lower() for x in lemmas[1:3]])
        held = [leaf]
        for h in above[w]:
            name = synsets[h][0][0].lower()
            if name not in TOO_ABSTRACT and count[h] <= 75:
                held.append(concept(name, [x.lower() for x in synsets[h][0][1:2] if not x[0].isupper()]))
        classes.append((leaf, sorted(set(held))))
    for c in cifar:
        leaf = concept(c.replace("_", " "))
        classes.append(
            (leaf, sorted({leaf, *(concept(k) for k, v in SUPERCLASSES.items() if c in v.split())}))
        )
    return wnids, cifar, classes, list(ids), synonyms
