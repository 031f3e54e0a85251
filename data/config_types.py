"""The classes behind data/config.py: a fixed set of keys, checked values, deep copies with overrides.

Imports the standard library only, so that any tool can read a config without a deep-learning framework.
"""

from __future__ import annotations

import ast
import copy
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from data.config_checks import ConfigError, check_value, short
from data.feature_maps import side_after_net, sides_of_levels

# Keys that may become None where they hold something else (a None may be replaced by anything).
_MAY_BE_NONE = ("name", "path", "class_names", "label_map")
Self = TypeVar("Self", bound="Config")


class Config(Mapping):
    """A fixed set of keys, read as ``config.key`` or ``config["key"]``; nested dicts become nested Configs.

    Values are plain data, and tuples are stored as lists, so that a config read back from JSON equals the one
    written. A key can be given a new value of its own type; new keys are only made here.

    Args:
        values: dict of key -> value.
    Raises:
        ConfigError: for a value that is not plain data, or that is known to be a mistake.
    """

    # Property -> what it follows from. An override may repeat its value but not change it.
    derived: dict[str, str] = {}

    def __init__(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            vars(self)[key] = _plain(key, value, nest=True)
            check_value(key, vars(self)[key])

    def __getitem__(self, key: str) -> Any:
        return vars(self)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))

    def __getattr__(self, key: str) -> Any:  # only reached when there is no such key
        if key.startswith("__"):
            raise AttributeError(key)  # what copying asks every object for; the search below takes milliseconds
        raise AttributeError(self._unknown(key))

    def __setattr__(self, key: str, value: Any) -> None:
        self._merge({key: value}, "")

    def __repr__(self) -> str:
        return "\n".join(_lines(self, ""))

    def copy(self: Self, overrides: Mapping[str, Any] | None = None) -> Self:
        """A deep copy with some values replaced.

        Args:
            overrides: dict of key -> value. For a nested Config, a dict changes the keys that it names, and a
                whole Config (another data set, another backbone) replaces it.
        Raises:
            ConfigError: for an unknown key (names the closest one), or a value that does not fit the key.
        """
        new = copy.deepcopy(self)
        new._merge(overrides or {}, "")
        return new

    def to_dict(self) -> dict[str, Any]:
        """The same values as nested dicts, lists, numbers and strings, independent of this Config."""
        return {k: v.to_dict() if isinstance(v, Config) else copy.deepcopy(v) for k, v in self.items()}

    def update_in_place(self, other: Config) -> None:
        """Take over the keys and values of ``other``; whoever holds this object sees them."""
        values = copy.deepcopy(vars(other))
        vars(self).clear()
        vars(self).update(values)

    def parse_overrides(self, assignments: Iterable[str]) -> dict[str, Any]:
        """Read texts such as "max_size=400" or "dataset.valid_info=val.json" into a dict for ``copy``.

        Values are Python literals (0.5, True, [1, 2]); where a string is expected the quotes may be left out.

        Raises:
            ConfigError: for an unknown key (names the closest one) or a value that cannot be read.
        """
        overrides: dict[str, Any] = {}
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            path = path.strip()
            if not equals or not path:
                raise ConfigError(f"-o {assignment:.70}: write it as KEY=VALUE")
            group, nested = self, overrides
            *parents, key = path.split(".")
            for parent in parents:
                if not isinstance(group.get(parent), Config):
                    raise ConfigError(self._unknown(path))
                group, nested = group[parent], nested.setdefault(parent, {})
            if key not in group and key not in group.derived:
                raise ConfigError(self._unknown(path))
            if isinstance(group.get(key), Config):
                members = ", ".join(f"{path}.{name}" for name in group[key])
                raise ConfigError(f"{path} is a group of keys; set one of {members}")
            nested[key] = _read_literal(path, group.get(key), text.strip())
        return overrides

    def _merge(self, overrides, prefix):
        for key, value in overrides.items():
            if key in self:
                vars(self)[key] = _fit(prefix + key, self[key], value)
            elif key not in self.derived:
                raise ConfigError(self._unknown(key, prefix))
        for key in self.derived:
            if key in overrides and overrides[key] != getattr(self, key):
                raise ConfigError(f"{prefix}{key}={overrides[key]!r} contradicts {getattr(self, key)}, which "
                                  f"follows from {self.derived[key]}; leave {key} out")

    def _unknown(self, key, prefix=""):
        known = [*self._paths(), *self.derived]
        same_ending = [path for path in known if path.rpartition(".")[2] == key]
        closest = same_ending or difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
        hint = f"; did you mean {prefix + closest[0]!r}?" if closest else ""
        return f"unknown config key {prefix + str(key)!r}{hint}"

    def _paths(self):
        for key, value in self.items():
            yield key
            if isinstance(value, Config):
                yield from (f"{key}.{path}" for path in value._paths())


class DatasetConfig(Config):
    """Where the pictures and COCO-format JSON files of a data set are, and what its classes are called."""

    def _merge(self, overrides, prefix):
        old_names = self.class_names
        super()._merge(overrides, prefix)
        if self.class_names != old_names and "label_map" not in overrides:
            vars(self)["label_map"] = None  # it numbered the classes that were there before
        if self.class_names is None:
            return  # they, and what their labels may be, are only known when the JSON is read
        labels = (self.label_map or {}).values()
        wrong = [label for label in labels if not 1 <= label <= len(self.class_names)]
        if wrong:
            raise ConfigError(f"{prefix}label_map has the label {wrong[0]}, but {prefix}class_names has "
                              f"{len(self.class_names)} classes; labels count from 1 in its order")


class YolactConfig(Config):
    """Everything that defines one network, its training and its data set."""

    derived = {
        "num_classes": "dataset.class_names (its classes, and 1 for the background)",
        "mask_dim": "mask_type, mask_proto_net, mask_proto_bias and mask_size",
    }

    @property
    def num_classes(self) -> int:
        """int: number of classes with the background, C.

        Raises:
            ConfigError: the class names are those of a JSON that has not been read.
        """
        if self.dataset.class_names is None:
            raise ConfigError("dataset.class_names is None, so the number of classes is known only when the JSON is "
                              "read; train.py does that, for eval.py give the names or a checkpoint that has them")
        return len(self.dataset.class_names) + 1

    @property
    def mask_dim(self) -> int:
        """int: number of prototypes, and of mask coefficients per object, K; of pixels for direct masks."""
        if self.mask_type == "direct":
            return self.mask_size ** 2
        return self.mask_proto_net[-1][0] + self.mask_proto_bias

    @property
    def conf_mode(self) -> str:
        """str: the class loss, and how scores follow from its logits: what the three focal flags select."""
        if not self.use_focal_loss:
            return "ohem"
        return "sigmoid" if self.use_sigmoid_focal_loss else "objectness" if self.use_objectness_score else "focal"

    def _merge(self, overrides, prefix):
        old_size = self.max_size
        super()._merge(overrides, prefix)
        self._check_combinations()
        if "max_size" in overrides and "pred_scales" not in overrides.get("backbone", ()):
            # Anchors keep their size relative to the picture, rounded down as in the original's 400 and 700
            # configs unless they were fractions before.
            self.backbone.pred_scales = [
                [type(scale)(scale * self.max_size / old_size) for scale in scales]
                for scales in self.backbone.pred_scales
            ]

    def _check_combinations(self):
        """Raise a ConfigError for switches that exclude each other, or that need another one."""
        wrong = (
            (self.use_sigmoid_focal_loss and self.use_objectness_score,
             "use_sigmoid_focal_loss and use_objectness_score are two kinds of focal loss; choose one"),
            ((self.use_sigmoid_focal_loss or self.use_objectness_score) and not self.use_focal_loss,
             "use_sigmoid_focal_loss and use_objectness_score are kinds of focal loss; set use_focal_loss too"),
            (self.use_maskiou and self.use_mask_scoring,
             "use_maskiou and use_mask_scoring both learn the masks' IoU; choose one"),
            (self.use_maskiou and not self.maskiou_net, "use_maskiou needs the layers of maskiou_net"),
            (self.mask_type == "direct" and (self.use_maskiou or self.use_mask_scoring
                                             or self.mask_proto_coeff_diversity_loss),
             "use_maskiou, use_mask_scoring and mask_proto_coeff_diversity_loss need mask_type='lincomb'"))
        for is_wrong, message in wrong:
            if is_wrong:
                raise ConfigError(message)
        if self.use_maskiou and self.eval_mask_branch and not self._masks_outlast_maskiou_net():
            raise ConfigError(f"max_size={self.max_size} is too small for the layers of maskiou_net: of masks as large "
                              "as the prototypes they leave nothing; raise max_size, or give maskiou_net fewer strides")

    def _masks_outlast_maskiou_net(self):
        """Whether a mask, which is as large as the prototypes, is at least a pixel after all of maskiou_net."""
        try:
            side = sides_of_levels(self.max_size, self.backbone, self.fpn)[self.mask_proto_src]
            side = side_after_net(side, self.mask_proto_net)
            return side_after_net(side, self.maskiou_net) >= 1
        except (ArithmeticError, IndexError, TypeError, ValueError):
            return True  # other notations that Paddle knows, such as padding="SAME"; it tells what is wrong with them


def _plain(path, value, nest=False):
    """``value`` as plain data: tuples as lists, category ids as integers, with ``nest`` dicts as Configs."""
    if isinstance(value, Config):
        return copy.deepcopy(value) if nest else value.to_dict()
    if isinstance(value, Mapping):
        if nest and value and all(isinstance(k, str) and isinstance(_plain_key(k), str) for k in value):
            return Config(value)
        # JSON knows only strings as keys: a label_map read back from a file has its numbers restored here.
        return {_plain_key(k): _plain(path, v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(path, v) for v in value]
    if isinstance(value, int) and abs(value) >= 2 ** 63:
        raise ConfigError(f"{path} holds an integer of more than 63 bits; write a smaller one")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"{path} holds a {type(value).__name__}; write numbers, strings, lists or dicts only")


def _plain_key(key):
    """A key of a dict: the number that a text of up to 18 digits stands for, else as it is."""
    return int(key) if isinstance(key, str) and re.fullmatch("[0-9]{1,18}", key) else key


def _fit(path, current, value):
    """``value`` in the type of ``current``, the value that it replaces at the dotted key ``path``."""
    if isinstance(current, Config):
        return _fit_group(path, current, value)
    value = _plain(path, value)
    check_value(path, value)  # first, as its messages say more
    expected = type(current)
    if current is not None and not (value is None and path.rpartition(".")[2] in _MAY_BE_NONE):
        if expected is float and type(value) is int:
            value = float(value)
        elif expected is int and type(value) is float and value.is_integer():
            value = _plain(path, int(value))  # max_iter=8e5
        if type(value) is not expected:
            raise ConfigError(f"{path}={short(value)} is of type {type(value).__name__}; write "
                              f"{expected.__name__}, such as {short(current)}")
    return value


def _fit_group(path, current, value):
    """The nested Config ``current`` changed by a dict, or replaced by a Config that has the same keys."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} is a group of keys and cannot be {value!r}; give a dict or set {path}.KEY")
    missing = [key for key in current if key not in value] if isinstance(value, Config) else []
    if missing:
        raise ConfigError(f"{path} lacks the key {missing[0]!r}; make it by .copy() of an existing one")
    new = copy.deepcopy(current)
    new._merge(value, path + ".")
    return new


def _read_literal(path, current, text):
    """The value that the text of an override stands for, given the present value of the key."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if current is None or isinstance(current, str):
            return text
        raise ConfigError(f"{path}={text:.70} is not a Python literal; write it like {short(current)}") from None
    # A file may be called 2017: where a string is expected, the text itself is the value.
    return text if isinstance(current, str) and value is not None and not isinstance(value, str) else value


def _lines(config, indent):
    for key, value in config.items():
        if isinstance(value, Config):
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {value!r}"
