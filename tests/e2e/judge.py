#!/usr/bin/env python3
"""Does the demo model draw what it was asked for?

    judge.py OUT.h5 [--at-least 0.9]     colour and shape of one-shape prompts' pictures, per cfg
    judge.py --self-test                 the same verdicts on drawn originals, which must be right

Prompts of the demo with one shape ("a red circle", "a large blue star on a yellow background") are
judged; others are passed over. The exit status is 0 when colour and shape are right often enough at
every cfg, 1 when they are not (or nothing could be judged), 2 when the file cannot be read.

A picture's background is the median of its rim. The shape is the largest connected part that
differs from it. Its colour is the palette's nearest to most of its inner pixels. Its form is the
template with the greatest overlap, both scaled to the same bounding box.
"""
import argparse
import re
import sys

import numpy as np

PALETTE = {
    "red": (220, 40, 40), "green": (40, 160, 70), "blue": (45, 85, 215),
    "yellow": (245, 215, 50), "purple": (140, 60, 180), "orange": (245, 135, 30),
    "white": (250, 250, 250), "black": (20, 20, 20), "gray": (150, 150, 150),
}
COLOUR_WORDS = {**{name: name for name in PALETTE}, "violet": "purple", "grey": "gray"}
SHAPE_WORDS = {
    "circle": "circle", "disc": "circle", "dot": "circle", "ball": "circle",
    "square": "square", "box": "square", "triangle": "triangle", "star": "star",
    "ring": "ring", "donut": "ring", "cross": "cross", "plus": "cross",
    "heart": "heart", "diamond": "diamond", "rhombus": "diamond",
}
GRID = 32            # templates and found shapes are compared on GRID x GRID cells
LEAST_CONTRAST = 40  # a pixel this far from the background (of 441) may belong to the shape
LEAST_PART = 0.0015  # of the picture's area: anything smaller is no shape


# --- the shapes, of radius about 1 around 0, v pointing down ---

def inside_polygon(u, v, corners):
    """Even-odd rule: crossings of the ray from (u, v) to the right."""
    inside = np.zeros(u.shape, bool)
    for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1]):
        if v0 != v1:
            crosses = (v0 > v) != (v1 > v)
            inside ^= crosses & (u < u0 + (v - v0) * (u1 - u0) / (v1 - v0))
    return inside


def regular(corners, *radii):
    """Corners of a polygon, the first on top, with the radii taken in turn."""
    angles = np.arange(corners) * 2 * np.pi / corners
    reach = np.resize(radii, corners)
    return list(zip(reach * np.sin(angles), -reach * np.cos(angles)))


def cross(u, v):
    au, av = np.abs(u), np.abs(v)
    return (np.minimum(au, av) <= 0.33) & (np.maximum(au, av) <= 1)


def heart(u, v):
    """A square on its corner with half a disc on each of its upper edges."""
    side, w = 0.85, v - 0.09
    discs = np.hypot(np.abs(u) - side / 2, w + side / 2) <= side / np.sqrt(2)
    return (np.abs(u) + np.abs(w) <= side) | discs


SHAPES = {
    "circle": lambda u, v: np.hypot(u, v) <= 1,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.88,
    "triangle": lambda u, v: inside_polygon(u, v, regular(3, 1.1)),
    "star": lambda u, v: inside_polygon(u, v, regular(10, 1.1, 0.46)),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.74) <= 0.26,
    "cross": cross,
    "heart": heart,
    "diamond": lambda u, v: inside_polygon(u, v, [(0, -1.1), (0.8, 0), (0, 1.1), (-0.8, 0)]),
}


def coverage(shape, size, x, y, radius, samples=4):
    """How much of each pixel [size, size] the shape covers, 0..1: samples x samples points each."""
    at = (np.arange(size * samples) + 0.5) / samples
    v, u = np.meshgrid((at - y) / radius, (at - x) / radius, indexing="ij")
    return SHAPES[shape](u, v).reshape(size, samples, size, samples).mean((1, 3))


# --- finding the shape ---

def spread(mask, combine):
    """Each pixel combined with its eight neighbours; outside of the picture counts as 0."""
    p = np.pad(mask, 1)
    rows = combine(combine(p[:-2], p[1:-1]), p[2:])
    return combine(combine(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def eroded(mask):
    return spread(mask, np.logical_and)


def dilated(mask):
    return spread(mask, np.logical_or)


def largest_part(mask):
    """Only the largest 8-connected part of the mask: labels grow over it until they stand still."""
    label = np.arange(1, mask.size + 1).reshape(mask.shape) * mask
    while True:
        grown = spread(label, np.maximum) * mask
        if np.array_equal(grown, label):
            break
        label = grown
    sizes = np.bincount(label.ravel())
    sizes[0] = 0
    return (label == sizes.argmax()) & mask


def background(image):
    """The median colour of the two outermost rows and columns."""
    rim = [image[:2], image[-2:], image[:, :2], image[:, -2:]]
    return np.median(np.concatenate([r.reshape(-1, 3) for r in rim]), axis=0)


def nearest_colour(pixels):
    """The palette's name that most of the pixels [N, 3] are nearest to."""
    distance = ((pixels[:, None] - np.array(list(PALETTE.values()), float)) ** 2).sum(2)
    return list(PALETTE)[np.bincount(distance.argmin(1), minlength=len(PALETTE)).argmax()]


def resampled(values, size):
    """[h, w] averaged over size equal strips along each axis (area weighting)."""
    for axis in (0, 1):
        n = values.shape[axis]
        zero = np.zeros_like(np.take(values, [0], axis))
        total = np.concatenate([zero, values.cumsum(axis)], axis)
        edges = np.linspace(0, n, size + 1)
        low = np.minimum(edges.astype(int), n - 1)
        part = np.expand_dims(edges - low, 1 - axis)
        at_edges = np.take(total, low, axis) * (1 - part) + np.take(total, low + 1, axis) * part
        values = np.diff(at_edges, axis=axis) * size / n
    return values


def normal_form(cover):
    """Soft mask -> [GRID, GRID]: its bounding box, centred in a square, scaled to the grid."""
    ys, xs = np.nonzero((cover > 0.5).any(1))[0], np.nonzero((cover > 0.5).any(0))[0]
    box = cover[ys[0]:ys[-1] + 1, xs[0]:xs[-1] + 1]
    side = max(box.shape)
    square = np.zeros((side, side))
    y, x = (side - box.shape[0]) // 2, (side - box.shape[1]) // 2
    square[y:y + box.shape[0], x:x + box.shape[1]] = box
    return resampled(square, GRID)


def templates():
    return {name: normal_form(coverage(name, 128, 64, 64, 50)) for name in SHAPES}


def overlap(a, b):
    return np.minimum(a, b).sum() / np.maximum(a, b).sum()


def judge(image, forms):
    """[H, W, 3] uint8 -> (colour, shape, overlap with that shape's template).

    (None, None, 0) when nothing is there."""
    image = image.astype(float)
    plain = background(image)
    differs = np.sqrt(((image - plain) ** 2).sum(2)) > LEAST_CONTRAST
    part = largest_part(dilated(eroded(differs)))
    if part.sum() < LEAST_PART * part.size:
        return None, None, 0.0
    core = eroded(part)
    pixels = image[core if core.any() else part]
    # A pixel on the edge is a mixture of background and shape: this far from the one to the other.
    way = np.median(pixels, axis=0) - plain
    cover = np.clip((image - plain) @ way / (way @ way), 0, 1) * dilated(part)
    if not (cover > 0.5).any():
        return None, None, 0.0
    form = normal_form(cover)
    shape = max(forms, key=lambda name: overlap(form, forms[name]))
    return nearest_colour(pixels), shape, float(overlap(form, forms[shape]))


# --- prompts and files ---

def one_shape(prompt):
    """(colour, shape) that a one-shape prompt asks for, or None for any other text."""
    words = re.findall(r"[a-z]+", prompt.lower())
    places = [i for i, w in enumerate(words) if w in SHAPE_WORDS]
    if len(places) != 1 or places[0] == 0 or words[places[0] - 1] not in COLOUR_WORDS:
        return None
    return COLOUR_WORDS[words[places[0] - 1]], SHAPE_WORDS[words[places[0]]]


def rows_of(path):
    """(cfg, prompt, image) of every finished row of an output file."""
    import h5py
    with h5py.File(path, "r") as f:
        if "images" not in f:
            raise ValueError(f"{path}: has no /images; render it with output.images true")
        prompts = [p.decode() if isinstance(p, bytes) else str(p) for p in f["positive"][:]]
        for row, sample in enumerate(f["samples"][:]):
            if sample["status"] == 1:
                yield float(sample["cfg"]), prompts[int(sample["positive"])], f["images"][row]


def rates(rows, verbose=False):
    """{cfg: (pictures, share with the right colour, share with the right shape)}."""
    forms, found = templates(), {}
    for cfg, prompt, image in rows:
        asked = one_shape(prompt)
        if asked is None:
            continue
        colour, shape, share = judge(image, forms)
        found.setdefault(cfg, []).append((colour == asked[0], shape == asked[1]))
        if verbose and (colour, shape) != asked:
            print(f"cfg {cfg:g}: {prompt!r}: seen {colour} {shape} (overlap {share:.2f})")
    return {cfg: (len(v), *np.mean(v, axis=0)) for cfg, v in sorted(found.items())}


def report(table, at_least):
    """Prints the table; whether all of it is good enough. Nothing judged is not."""
    for cfg, (count, colour, shape) in table.items():
        print(f"cfg {cfg:g}: {count} pictures, "
              f"colour {100 * colour:.1f} %, shape {100 * shape:.1f} %")
    if not table:
        print("no picture of a one-shape prompt to judge")
    return bool(table) and all(min(row[1:]) >= at_least for row in table.values())


# --- the judge judged ---

def drawn(rng, size=128):
    """A prompt and its picture, drawn as the demo model's training pictures are: flat, any size,
    place and background, colours a little off, pixel values a little noisy."""
    shape = rng.choice(list(SHAPES))
    colour = rng.choice([c for c in PALETTE if c != "gray"])
    ground = rng.choice([c for c in PALETTE if c != colour])
    radius = rng.uniform(12, 42)
    x, y = rng.uniform(radius * 1.1 + 3, size - 3 - radius * 1.1, 2)
    paint, plain = (np.array(PALETTE[c]) + rng.uniform(-5, 5, 3) for c in (colour, ground))
    cover = coverage(shape, size, x, y, radius)[..., None]
    image = plain + cover * (paint - plain) + rng.normal(0, 3, (size, size, 3))
    prompt = f"a {colour} {shape} on a {ground} background"
    return prompt, np.clip(np.rint(image), 0, 255).astype(np.uint8)


def self_test(count):
    """Drawn originals are judged rightly, under other prompts not, and empty ones show nothing."""
    rng = np.random.default_rng(7)
    pictures = [drawn(rng) for _ in range(count)]
    right = rates(((0.0, prompt, image) for prompt, image in pictures), verbose=True)
    prompts = [pictures[(i + 1) % count][0] for i in range(count)]
    wrong = rates((1.0, prompt, image) for prompt, (_, image) in zip(prompts, pictures))
    ok = report(right, 0.97)
    ok &= max(wrong[1.0][1:]) < 0.4
    ok &= judge(np.full((128, 128, 3), 99, np.uint8), templates())[:2] == (None, None)
    asked = {"a red circle": ("red", "circle"), "a photo of a cat": None, "": None,
             "one tiny violet donut at the top": ("purple", "ring"),
             "an orange star on a blue background": ("orange", "star"),
             "a red circle above a blue star": None}
    ok &= all(one_shape(prompt) == answer for prompt, answer in asked.items())
    print("self-test:", "passed" if ok else "FAILED")
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="?", help="an output of ksweep with /images")
    parser.add_argument("--at-least", type=float, default=0.9,
                        help="share that must be right (default 0.9)")
    parser.add_argument("--self-test", action="store_true", help="judge drawn originals")
    parser.add_argument("--verbose", action="store_true",
                        help="name every picture that is not as asked for")
    args = parser.parse_args()
    if args.self_test == bool(args.file):
        parser.error("either a file or --self-test is needed")
    if args.self_test:
        return 0 if self_test(240) else 1
    try:
        table = rates(rows_of(args.file), args.verbose)
    except (OSError, KeyError, ValueError) as problem:
        print(f"cannot be judged: {problem}", file=sys.stderr)
        return 2
    return 0 if report(table, args.at_least) else 1


if __name__ == "__main__":
    sys.exit(main())
