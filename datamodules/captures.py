"""Several noisy pictures of one scene, which differ by their noise alone: a burst, a series under a microscope."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from datamodules.files import digest
from datamodules.images import DataError, listing
from datamodules.parting import Item, Splits, grouped

log = logging.getLogger(__name__)


def twinned(parts: Splits, pattern: str) -> Splits:
    """The splits, each training and validation image beside another capture of its scene, its ``twin``.

    In training there are all pairs of captures. A validation image's twin is a training image, if its scene has one:
    only the network's input must be new. Of captures that are one file a single one is taken, or a network would learn
    to keep its noise.

    Args:
        parts: of noisy images alone; the test images may be any, and stay as they are.
        pattern: a regular expression, ``data.captures``, whose (groups) find the scene in a name.

    Raises:
        DataError: no two training images are of one scene, or a validation image has no twin; see also
            :func:`datamodules.parting.grouped`.
    """
    train, val = (grouped(items, pattern, "captures") for items in (parts.train, parts.val))
    content = {item: digest(str(item.noisy)) for item in [*parts.train, *parts.val]}
    captures = {scene: different(items, content) for scene, items in train.items()}
    pairs = [beside(one, other) for items in captures.values() for one, other in combinations(items, 2)]
    if not pairs:
        raise DataError(f"data.captures={pattern}: no two of the {len(parts.train)} training images are of one scene")
    judged, alone = [], []
    for scene, items in val.items():
        for item in items:
            twins = [twin for twin in [*captures.get(scene, []), *items] if content[twin] != content[item]]
            if twins:
                judged.append(beside(item, twins[0]))
            else:
                alone.append(str(item.noisy))
    if alone:
        raise DataError(f"data.captures={pattern}: validation images whose scene has no other:\n{listing(alone)}")
    return replace(parts, train=pairs, val=judged)


def beside(item: Item, twin: Item) -> Item:
    """A noisy image with another as its twin."""
    return replace(item, twin=twin.noisy)


def different(items: Sequence[Item], content: Mapping[Item, str]) -> list[Item]:
    """The items less those whose files are the same, byte by byte, as that of another."""
    found = {content[item]: item for item in items}
    if len(found) < len(items):
        log.info(f"data.captures: of {', '.join(item.name for item in items)} only {len(found)} differ")
    return list(found.values())
