"""WordNet beyond the trained concepts: where a noun that no picture taught should lie.

read(folder) -> (synsets, senses); concept_synsets(...) -> {offset: concept};
targets(...) -> {noun: {concept: weight}}.

A noun lies where its nearest trained ancestors lie, weight 0.55 per step; without any, it has no target.
"""

import collections
import re


def read(folder):
    synsets, senses = {}, {}
    for line in open(folder + "/data.noun", encoding="utf8"):
        if not line.startswith("  "):
            f = line.split(" | ")[0].split()
            n = int(f[3], 16)
            k = 4 + 2 * n
            synsets[f[0]] = (
                [f[4 + 2 * i].replace("_", " ") for i in range(n)],
                [f[k + 2 + 4 * i] for i in range(int(f[k])) if f[k + 1 + 4 * i] in ("@", "@i")],
            )
    for line in open(folder + "/index.noun", encoding="utf8"):
        if not line.startswith("  "):
            f = line.split()
            p = int(f[3])
            # offsets, number of tagged senses
            senses[f[0].replace("_", " ")] = (f[4 + p + 2 :], int(f[4 + p + 1]))
    return synsets, senses


def adjectives(folder):
    found = []
    for line in open(folder + "/index.adj", encoding="utf8"):
        if not line.startswith("  "):
            f = line.split()
            if int(f[4 + int(f[3]) + 1]) >= 2 and re.fullmatch(r"[a-z]{3,14}", f[0]):
                found.append(f[0])
    return found + ["korean", "japanese", "chinese", "american", "european", "african", "asian"]


def ancestors(synsets, offset):
    """[(offset, distance)], nearest first."""
    out, queue, seen = [], [(offset, 0)], {offset}
    while queue:
        x, d = queue.pop(0)
        for h in synsets[x][1]:
            if h not in seen:
                seen.add(h)
                out.append((h, d + 1))
                queue.append((h, d + 1))
    return out


def concept_synsets(synsets, senses, wnids, cifar, classes, names, superclasses):
    known, concept = {}, {n: i for i, n in enumerate(names)}
    for i, w in enumerate(wnids):
        known[w[1:]] = classes[i][0]
        for h, _ in ancestors(synsets, w[1:]):
            c = concept.get(synsets[h][0][0].lower())
            if c in classes[i][1]:
                known.setdefault(h, c)
    for c in cifar:  # the sense that lies under the class's superclass, else the first
        name = c.replace("_", " ")
        above = {k for k, v in superclasses.items() if c in v.split()}
        candidates = senses.get(name, ([], 0))[0] or senses.get(name.split()[0], ([], 0))[0]
        fits = [
            o
            for o in candidates
            if above & {x.lower() for h, _ in ancestors(synsets, o) for x in synsets[h][0]}
        ]
        if fits or candidates:
            known.setdefault((fits or candidates)[0], concept[name])
    for k in superclasses:
        if k in senses:
            known.setdefault(senses[k][0][0], concept[k])
    return known


def targets(synsets, senses, known):
    below = collections.defaultdict(set)
    for o, c in known.items():
        for h, _ in ancestors(synsets, o):
            below[h].add(c)
    out = {}
    for lemma, (offsets, tagged) in senses.items():
        if not re.fullmatch(r"[a-z][a-z' -]{1,24}", lemma) or lemma.count(" ") > 1:
            continue
        o, weight = offsets[0], collections.Counter()
        above = ancestors(synsets, o)
        if o in known:
            weight[known[o]] = 1.0
        else:
            for h, d in above:
                if h in known and d <= 8:
                    weight[known[h]] += 0.55**d
            if not weight and 0 < len(below[o]) <= 120:
                weight.update({c: 1 / len(below[o]) for c in below[o]})
        if weight and (tagged > 0 or min((d for h, d in above if h in known), default=0) <= 2):
            out[lemma] = dict(weight)
    return out
