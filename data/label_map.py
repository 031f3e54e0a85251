"""Which label of the network each category of an annotation file has."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from data.findings import Finding, few, finding_of, raise_first, short


def make_label_map(content: Mapping[str, Any], label_map: Mapping[Any, int] | None,
                   class_names: Sequence[str], info_file: str) -> dict[Any, int]:
    """`find_labels`, of which the first error is raised as a DatasetError."""
    found, findings = find_labels(content, label_map, class_names)
    raise_first(findings, info_file)
    return found


def find_labels(content: Mapping[str, Any], label_map: Mapping[Any, int] | None,
                class_names: Sequence[str]) -> tuple[dict[Any, int], list[Finding]]:
    """Makes {category_id: 1-based label} and checks it against the categories that the annotations use.

    Args:
        content: the annotation file. label_map: the config's, or None: categories are found by their names in
            `class_names`; a file without categories has the labels as ids, as in the original.
    Returns:
        the map; errors if an annotation's category belongs to no class, a label to none of `class_names`, or two
        categories to one class.
    """
    names = {category["id"]: category.get("name") for category in content.get("categories", [])}
    if label_map is not None:
        # Keys become strings on the way through a JSON file, such as the one beside a checkpoint.
        found: dict[Any, int] = {int(category_id): label for category_id, label in label_map.items()}
        fix = "correct dataset.label_map or the file"
    elif names:
        labels = {class_name: label for label, class_name in enumerate(class_names, 1)}
        found = {category_id: labels[name] for category_id, name in names.items()
                 if isinstance(name, str) and name in labels}
        fix = "write the file's category names into dataset.class_names, or give dataset.label_map"
    else:
        found = {label: label for label in range(1, len(class_names) + 1)}
        fix = "give dataset.label_map"
    outside = [f"category {number}: label {label}" for number, label in found.items()
               if not 1 <= label <= len(class_names)]
    findings = finding_of("error", f"labels in dataset.label_map are not from 1 to {len(class_names)}, the number of "
                          f"dataset.class_names", fix, outside, len(found))
    used = {annotation["category_id"] for annotation in content.get("annotations", [])}
    findings += _unknown_categories(used - set(found), names, fix, found, class_names)
    if not found and not findings:
        findings.append(Finding("error", f"none of the categories {few(names.values())} is among the names "
                                f"{few(class_names)}", fix))
    one_each, shared = _one_category_each(found, used, class_names)
    return one_each, findings + shared


def _unknown_categories(unknown: Collection[Any], names: Mapping[Any, Any], fix: str, known: Collection[Any],
                        class_names: Sequence[str]) -> list[Finding]:
    """The error that annotations have categories without a class."""
    places = [f"category_id {number} ({names[number]!r})" if number in names
              else f"category_id {number} (not among its categories)" for number in sorted(unknown, key=str)]
    if not places:
        return []
    what = (f"annotations have categories that belong to no class: {', '.join(places[:8])}; known are the ids "
            f"{few(known)} for the names {few(class_names)}")
    return [Finding("error", what, fix, len(places))]


def _one_category_each(found: Mapping[Any, int], used: Collection[Any], class_names: Sequence[str]
                       ) -> tuple[dict[Any, int], list[Finding]]:
    """`found` with one category for each label, and the error that annotations use several.

    Exporters add categories that no annotation uses, named as the class they stand above.
    """
    ids_of = collections.defaultdict(list)
    for category_id, label in found.items():
        ids_of[label].append(category_id)
    kept = {label: [number for number in ids if number in used] or ids[:1] for label, ids in ids_of.items()}
    shared = [f"{short(class_names[label - 1], str)}: {few(ids)}" for label, ids in kept.items()
              if len(ids) > 1 and 1 <= label <= len(class_names)]
    findings = finding_of("error", "classes have several category ids, so that detections could not be told apart",
                          "give the annotations of a class one category_id", shared, len(class_names))
    return {ids[0]: label for label, ids in kept.items()}, findings
