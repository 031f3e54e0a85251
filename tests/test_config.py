"""Configs: equal to the original's, strict about keys and types, plain data, independent copies."""

import copy
import importlib.util
import json
import pickle
import re
import textwrap
from pathlib import Path

import pytest

from data import config
from data.config import ConfigError, cfg
from data.config_types import Config, YolactConfig

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "configs.json").read_text(encoding="utf-8"))

OFF = "an experiment that every published config leaves off"
FIXED = "every published config has it on; ours always does it"
NEVER = "never read by the original's code for these configs"

# Keys of the original without a counterpart here: (their value in every base config, why they are left out).
LEFT_OUT = {
    "mask_dim": (None, "derived from mask_proto_net; the original stores it at run time"),
    "mask_proto_crop_expand": (0, OFF),
    "mask_proto_loss": (None, OFF),
    "mask_proto_binarize_downsampled_gt": (True, FIXED),
    "mask_proto_normalize_mask_loss_by_sqrt_area": (False, OFF),
    "mask_proto_normalize_emulate_roi_pooling": (True, FIXED),
    "mask_proto_reweight_mask_loss": (False, OFF),
    "mask_proto_reweight_coeff": (1, OFF),
    "mask_proto_grid_file": ("data/grid.npy", "the coordinates of the cells take the file's place"),
    "mask_proto_coeff_gate": (False, OFF),
    "mask_proto_prototypes_as_features": (False, OFF),
    "mask_proto_prototypes_as_features_no_grad": (False, OFF),
    "mask_proto_remove_empty_masks": (False, OFF),
    "mask_proto_double_loss": (False, OFF),
    "mask_proto_double_loss_alpha": (1, OFF),
    "mask_proto_split_prototypes_by_head": (False, OFF),
    "mask_proto_crop_with_pred_box": (False, OFF),
    "ohem_use_most_confident": (False, OFF),
    "use_class_balanced_conf": (False, OFF),
    "use_change_matching": (False, OFF),
    "extra_layers": ([0, 0, 0], OFF),
    "force_cpu_nms": (True, "the traditional NMS is plain array code here and runs on any device"),
    "use_coeff_nms": (False, OFF),
    "use_instance_coeff": (False, OFF),
    "num_instance_coeffs": (64, OFF),
    "train_masks": (True, FIXED),
    "train_boxes": (True, FIXED),
    "use_gt_bboxes": (False, OFF),
    "use_prediction_module": (False, OFF),
    "use_yolo_regressors": (False, OFF),
    "use_prediction_matching": (False, OFF),
    "no_jit": (False, "a switch of torch's script compiler"),
    "maskious_to_train": (-1, OFF),
    "mask_proto_mask_activation": ("sigmoid", "always sigmoid: the mask loss is a cross entropy"),
    "backbone.use_pixel_scales": (True, FIXED),
    "backbone.preapply_sqrt": (False, OFF),
}
# Keys of ours without a counterpart in the original.
ADDED = {"optimizer": "sgd", "lr_schedule": "step", "batch_size_base": 8}


def flat(values, prefix=""):
    """Nested dicts as {dotted key: value}; the arguments of the head's convolutions count as one value."""
    result = {}
    for key, value in values.items():
        if isinstance(value, dict) and key not in ("head_layer_params", "label_map"):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[prefix + key] = value
    return result


def golden_config(name):
    """One config of the original as {dotted key: value}, without the class lists of its data set."""
    return {**flat(GOLDEN["configs"]["yolact_base_config"]), **flat(GOLDEN["configs"][name])}


def as_json(values):
    return json.loads(json.dumps(values))


# -------------------------------------------------------------------------------- Equal to the original


@pytest.mark.parametrize("name", GOLDEN["configs"])
def test_values_equal_the_original(name):
    theirs = golden_config(name)
    network = config.get_config(name)
    ours = flat(as_json(network.to_dict()))
    class_names, label_map = ours.pop("dataset.class_names"), ours.pop("dataset.label_map")

    theirs["mask_type"] = ["direct", "lincomb"][theirs["mask_type"]]
    assert theirs.pop("num_classes") == network.num_classes == len(class_names) + 1
    assert {key: theirs.pop(key) for key in LEFT_OUT} == {key: value for key, (value, _) in LEFT_OUT.items()}
    assert {key: ours.pop(key) for key in ADDED} == ADDED
    assert ours == theirs
    pascal = "pascal" in name
    assert class_names == GOLDEN["PASCAL_CLASSES" if pascal else "COCO_CLASSES"]
    assert label_map == (None if pascal else GOLDEN["COCO_LABEL_MAP"])


def test_left_out_keys_do_not_exist_here():
    ours = flat(config.get_config("yolact_base").to_dict())
    assert not set(LEFT_OUT) & set(ours)
    assert all(reason for _, reason in LEFT_OUT.values())


@pytest.mark.parametrize("name", [name for name in GOLDEN["datasets"] if name != "dataset_base"])
def test_datasets_equal_the_original(name):
    ours = config.get_dataset(name).to_dict()
    pascal = "pascal" in name
    assert ours.pop("class_names") == GOLDEN["PASCAL_CLASSES" if pascal else "COCO_CLASSES"]
    assert as_json(ours.pop("label_map")) == (None if pascal else GOLDEN["COCO_LABEL_MAP"])
    assert ours == GOLDEN["datasets"][name]


def test_constants_equal_the_original():
    for name in ("COCO_CLASSES", "PASCAL_CLASSES", "COCO_LABEL_MAP", "COLORS", "MEANS", "STD"):
        assert as_json(getattr(config, name)) == GOLDEN[name], name


def test_derived_values():
    assert (cfg.num_classes, cfg.mask_dim) == (81, 32)
    demo = config.get_config("yolact_demo")
    assert (demo.num_classes, demo.mask_dim) == (len(config.DEMO_CLASSES) + 1, demo.mask_proto_net[-1][0])


@pytest.mark.parametrize("name", config.available_configs())
def test_levels_of_the_pyramid_fit_together(name):
    network = config.get_config(name)
    levels = len(network.backbone.selected_layers) + network.fpn.num_downsample
    assert len(network.backbone.pred_scales) == len(network.backbone.pred_aspect_ratios) == levels


# ------------------------------------------------------------------------------------ Copies and access


def test_attribute_and_item_access():
    assert cfg.fpn.num_features == cfg["fpn"]["num_features"] == 256
    assert "fpn" in cfg and "typo" not in cfg and cfg.get("typo") is None
    assert dict(cfg.fpn.items())["pad"] is True
    assert cfg != cfg.copy({"lr": 0.5}) and cfg == cfg.copy()
    assert {**cfg.head_layer_params} == {"kernel_size": 3, "padding": 1}
    with pytest.raises(AttributeError, match="did you mean 'max_size'"):
        _ = cfg.maxsize


def test_copy_is_deep():
    original = config.get_config("yolact_base")
    before = copy.deepcopy(original.to_dict())
    changed = original.copy()
    changed.backbone.pred_scales[0][0] = 999
    changed.mask_proto_net[0][2]["padding"] = 7
    changed.dataset.label_map[1] = 50
    changed.fpn.num_features = 8
    changed.to_dict()["lr_steps"].append(3)
    assert original.to_dict() == before
    assert config.get_config("yolact_base").to_dict() == before
    assert config.COCO_LABEL_MAP[1] == 1


def test_copy_does_not_keep_the_overrides_themselves():
    steps, names = [1, 2], ["a"]
    changed = cfg.copy({"lr_steps": steps, "dataset": {"class_names": names}})
    steps.append(3)
    names.append("b")
    assert changed.lr_steps == [1, 2] and changed.num_classes == 2


def test_nested_overrides_change_only_what_they_name():
    changed = cfg.copy({"fpn": {"num_features": 64}, "backbone": {"transform": {"normalize": False}}})
    expected = flat(cfg.to_dict())
    expected.update({"fpn.num_features": 64, "backbone.transform.normalize": False})
    assert flat(changed.to_dict()) == expected


def test_a_whole_config_replaces_the_nested_one():
    backbone = config.get_config("yolact_darknet53").backbone
    changed = cfg.copy({"backbone": backbone, "dataset": config.get_dataset("pascal_sbd")})
    assert changed.backbone == backbone and changed.num_classes == 21
    with pytest.raises(ConfigError, match="dataset lacks the key 'train_images'"):
        cfg.copy({"dataset": Config({"name": "half"})})


@pytest.mark.parametrize("name", config.available_configs())
def test_json_pickle_and_checkpoint_round_trips(name):
    network = config.get_config(name)
    stored = as_json(network.to_dict())
    assert YolactConfig(stored) == network
    assert pickle.loads(pickle.dumps(network)) == network
    config.set_cfg("yolact_im400_config")
    config.set_cfg(stored)
    assert cfg.to_dict() == network.to_dict()


def test_update_in_place_keeps_the_object_and_copies_the_values():
    holder, other = cfg, config.get_config("yolact_demo")
    cfg.update_in_place(other)
    assert holder is config.cfg and holder == other
    other.fpn.num_features = 1
    assert holder.fpn.num_features != 1


def test_repr_is_one_line_per_key():
    lines = repr(cfg).splitlines()
    assert "max_size: 550" in lines and "  num_features: 256" in lines and "fpn:" in lines
    assert len(lines) == len(list(cfg._paths()))


# --------------------------------------------------------------------------- Mistakes that are told at once


@pytest.mark.parametrize(("overrides", "message"), [
    ({"max_sise": 3}, "unknown config key 'max_sise'; did you mean 'max_size'?"),
    ({"fpn": {"num_feature": 3}}, "unknown config key 'fpn.num_feature'; did you mean 'fpn.num_features'?"),
    ({"valid_info": "x"}, "unknown config key 'valid_info'; did you mean 'dataset.valid_info'?"),
    ({"type": "x"}, "unknown config key 'type'; did you mean 'backbone.type'?"),  # mask_type looks more alike
    ({"max_size": "big"}, "max_size='big' is of type str; write int, such as 550"),
    ({"max_size": 1.5}, "max_size=1.5 is of type float"),
    ({"max_size": True}, "max_size=True is of type bool"),
    ({"max_size": 0}, "max_size=0 has to be at least 1"),
    ({"nms_top_k": -1}, "nms_top_k=-1 has to be at least 1"),
    ({"max_num_detections": 0}, "max_num_detections=0 has to be at least 1"),
    ({"lr": False}, "lr=False is of type bool; write float, such as 0.001"),
    ({"freeze_bn": 1}, "freeze_bn=1 is of type int; write bool, such as False"),
    ({"lr_steps": 5}, "lr_steps=5 is of type int; write list, such as [280000"),
    ({"max_iter": None}, "max_iter=None is of type NoneType"),
    ({"fpn": 3}, "fpn is a group of keys and cannot be 3"),
    ({"dataset": {"has_gt": "yes"}}, "dataset.has_gt='yes' is of type str"),
    ({"optimizer": "adam"}, "optimizer='adam' is not known; write one of sgd, adamw"),
    ({"lr_schedule": "poly"}, "write one of step, cosine"),
    ({"mask_proto_coeff_activation": "gelu"}, "mask_proto_coeff_activation='gelu' is not known"),
    ({"lr_steps": [{1, 2}]}, "lr_steps holds a set; write numbers, strings, lists or dicts only"),
    ({"dataset": {"class_names": ("fish")}}, "dataset.class_names: ('fish') is a string; write ('fish',)"),
    ({"dataset": {"class_names": []}}, "dataset.class_names=[] has to be a list of names"),
    ({"dataset": {"class_names": ["a", "b", "a"]}}, "dataset.class_names has 'a' twice"),
    ({"dataset": {"label_map": [1, 2]}}, "dataset.label_map=[1, 2] has to be {category_id: label from 1}"),
    ({"dataset": {"label_map": {"fish": 1}}}, "has to be {category_id: label from 1}"),
    ({"num_classes": 7}, "num_classes=7 contradicts 81, which follows from dataset.class_names"),
    ({"mask_dim": 7}, "mask_dim=7 contradicts 32, which follows from mask_type, mask_proto_net"),
])
def test_a_wrong_override_is_told_and_changes_nothing(overrides, message):
    before = cfg.to_dict()
    with pytest.raises(ConfigError, match=re.escape(message)):
        cfg.copy(overrides)
    assert cfg.to_dict() == before


# A VGG-16 of few channels; the sides of its maps are those of the published one.
SLIM_VGG = config.vgg16_backbone.copy({"args": (
    [[4], ["M", 4], ["M", 4], [["M", {"kernel_size": 2, "stride": 2, "ceil_mode": True}], 4], ["M", 4],
     [["M", {"kernel_size": 3, "stride": 1, "padding": 1}], [4, {"kernel_size": 3, "padding": 6, "dilation": 6}]]],
    [[4, 2]], [3])})
SLIM = {"resnet": {"args": ([1, 1, 1, 1], None, 1, 4)}, "vgg": SLIM_VGG,
        "darknet": config.darknet53_backbone.copy({"args": ([1, 1, 1, 1, 1],)})}


@pytest.mark.parametrize(("backbone", "overrides"), [
    *[(backbone, {}) for backbone in SLIM],
    ("resnet", {"mask_proto_src": 1}), ("resnet", {"mask_proto_src": 3, "max_size": 900}),
    ("vgg", {"fpn": {"pad": False}}),
    ("vgg", {"backbone": {"args": (SLIM_VGG.args[0], [[4, 2], [4, 1]], [3]), "selected_layers": [3, 5, 7]},
             "mask_proto_src": 2}),
    ("darknet", {"mask_proto_net": [(4, 3, {}), (None, -3, {}), (4, 3, {"stride": 2, "dilation": 2, "padding": 1})]})])
def test_mask_rescoring_is_refused_exactly_where_the_network_would_fail(backbone, overrides):
    import paddle

    from yolact import Yolact
    network = config.get_config("yolact_base_maskiou").copy({
        "backbone": SLIM[backbone], "fpn": {"num_features": 4}, "extra_head_net": [(4, 3, {"padding": 1})],
        "maskiou_net": [*[(4, 3, {"stride": 2})] * 3, (4, 5, {"stride": 2, "padding": 1})],
        "mask_proto_net": [(4, 3, {"padding": 1}), (None, -2, {}), (4, 1, {})]}).copy(overrides)

    def is_accepted(size):
        try:
            return network.copy({"max_size": size}).max_size == size
        except ConfigError as error:
            assert f"max_size={size} is too small for the layers of maskiou_net" in str(error)
            return False

    smallest = next(filter(is_accepted, range(1, 2000)))
    assert smallest > 1 and all(map(is_accepted, range(smallest, smallest + 99)))
    model = Yolact(network)
    model.eval()
    for size in (smallest - 1, smallest):
        features = model.backbone(paddle.zeros([1, 3, size, size]))
        pyramid = model.fpn([features[i] for i in model.selected_layers])
        masks = model.proto_net(pyramid[model.proto_src])[:, :, :, :1].transpose([0, 3, 1, 2])
        if size == smallest:
            assert model.maskiou_net(masks).shape == [1, 80]
        elif not paddle.__version__.startswith("2."):  # which goes on after an error of its MKL, with nonsense
            with pytest.raises(Exception, match="(?i)size|stride|shape"):  # of another kind in every version of Paddle
                model.maskiou_net(masks)


def test_published_networks_with_mask_rescoring_have_a_smallest_size():
    plus = config.get_config("yolact_plus_resnet50")
    for size in (185, 256, 550):  # 185: the first at which Paddle runs its maskiou_net
        assert plus.copy({"max_size": size}).max_size == size
    for size in (138, 184):
        with pytest.raises(ConfigError, match=f"max_size={size} .* maskiou_net"):
            plus.copy({"max_size": size})
    assert plus.copy({"max_size": 138, "eval_mask_branch": False}).max_size == 138
    same = [[8, 3, {"stride": 2, "padding": "SAME"}]]
    assert plus.copy({"max_size": 138, "maskiou_net": same}).maskiou_net == same  # left to Paddle


def test_a_new_data_set_is_checked_where_it_is_made():
    with pytest.raises(ConfigError, match=re.escape("class_names: ('fish') is a string; write ('fish',)")):
        config.dataset_base.copy({"class_names": "fish"})
    with pytest.raises(ConfigError, match="label_map=3"):
        config.dataset_base.copy({"label_map": 3})


def test_a_label_map_never_outlives_its_classes():
    assert cfg.copy({"dataset": {"class_names": ["a", "b"]}}).dataset.label_map is None
    assert cfg.copy({"dataset": {"name": "moved"}}).dataset.label_map == config.COCO_LABEL_MAP
    both = {"class_names": ["a", "b"], "label_map": {7: 1, 9: 2}}
    assert cfg.copy({"dataset": both}).dataset.label_map == {7: 1, 9: 2}
    for label in (0, 3):
        both["label_map"][9] = label
        with pytest.raises(ConfigError, match=f"dataset.label_map has the label {label}, but .* 2 classes"):
            cfg.copy({"dataset": both})


def test_unknown_attribute_cannot_be_set():
    with pytest.raises(ConfigError, match="'_tmp_img_w'"):
        cfg._tmp_img_w = 3
    with pytest.raises(ConfigError, match="num_classes=3 contradicts 81"):
        cfg.num_classes = 3
    cfg.lr_steps = (1, 2)
    assert cfg.lr_steps == [1, 2]


def test_values_that_mean_the_same_are_accepted():
    changed = cfg.copy({"lr": 1, "max_iter": 8e5, "lr_steps": (1, 2), "num_classes": 81,
                        "backbone": {"path": None}, "dataset": {"label_map": {"3": 1}}})
    assert changed.lr == 1.0 and type(changed.lr) is float
    assert changed.max_iter == 800000 and type(changed.max_iter) is int
    assert changed.lr_steps == [1, 2] and changed.backbone.path is None
    assert changed.dataset.label_map == {3: 1}
    assert "num_classes" not in changed.to_dict()


def test_num_classes_may_be_repeated_as_tutorials_do():
    fish = config.dataset_base.copy({"class_names": ("fish",), "label_map": {1: 1}})
    assert cfg.copy({"dataset": fish, "num_classes": len(fish.class_names) + 1}).num_classes == 2
    with pytest.raises(ConfigError, match="num_classes=1 contradicts 2"):
        cfg.copy({"num_classes": 1, "dataset": fish})


def test_blanks_around_a_key_and_its_value_do_not_matter():
    config.apply_overrides([" lr = 0.5 ", "dataset.name= the sea "])
    assert cfg.lr == 0.5 and cfg.dataset.name == "the sea"


# ----------------------------------------------------------------------------- Anchor sizes follow max_size


@pytest.mark.parametrize(("overrides", "scales"), [
    ({"max_size": 275}, [12, 24, 48, 96, 192]),
    ({"max_size": 550}, [24, 48, 96, 192, 384]),
    ({"max_size": 275, "fpn": {"pad": False}}, [12, 24, 48, 96, 192]),
    ({"max_size": 275, "backbone": {"use_square_anchors": False}}, [12, 24, 48, 96, 192]),
    ({"max_size": 275, "backbone": {"pred_scales": [[1], [2], [3], [4], [5]]}}, [1, 2, 3, 4, 5]),
    ({"max_size": 275, "backbone": config.darknet53_backbone}, [24, 48, 96, 192, 384]),
    ({"lr": 0.5}, [24, 48, 96, 192, 384]),
])
def test_anchor_sizes_follow_max_size_unless_given(overrides, scales):
    assert cfg.copy(overrides).backbone.pred_scales == [[scale] for scale in scales]


def test_fractional_anchor_sizes_stay_fractional():
    plus = cfg.copy({"backbone": {"pred_scales": [[24.0, 30.5], [48], [96], [192], [384]]}})
    assert plus.copy({"max_size": 275}).backbone.pred_scales[:2] == [[12.0, 15.25], [24]]


# ------------------------------------------------------------------------------- Look-up and the global cfg


def test_short_and_long_names_give_independent_copies():
    short, long = config.get_config("yolact_base"), config.get_config("yolact_base_config")
    assert short == long and short is not long and short is not config.yolact_base_config
    assert config.get_dataset("coco2017") == config.get_dataset("coco2017_dataset")
    short.max_size = 100
    assert config.get_config("yolact_base").max_size == 550


def test_what_is_available():
    assert {*GOLDEN["configs"], "yolact_demo_config"} <= set(config.available_configs())
    assert {*GOLDEN["datasets"], "demo_dataset"} - {"dataset_base"} <= set(config.available_datasets())
    assert "cfg" not in config.available_configs() and "dataset_base" not in config.available_datasets()


@pytest.mark.parametrize(("look_up", "name", "closest", "listed"), [
    (config.get_config, "yolact_bsae", "yolact_base_config", "yolact_im700_config"),
    (config.get_config, "import os", "yolact_", "yolact_im700_config"),
    (config.set_cfg, "yolact_resnet50_pascl_config", "yolact_resnet50_pascal_config", "yolact_demo_config"),
    (config.get_dataset, "coco2071_dataset", "coco2017_dataset", "demo_dataset"),
    (config.set_dataset, "pascal", "pascal_sbd_dataset", "demo_dataset"),
])
def test_an_unknown_name_lists_what_there_is(look_up, name, closest, listed):
    with pytest.raises(ConfigError) as error:
        look_up(name)
    assert f"did you mean '{closest}" in str(error.value) and listed in str(error.value)


def test_set_cfg_fills_the_global_object_in_place():
    held = cfg
    config.set_cfg("yolact_resnet50_pascal_config")
    assert held is config.cfg and held.name == "yolact_resnet50_pascal" and held.num_classes == 21
    config.set_cfg("yolact_resnet50_pascal")
    assert held.name == "yolact_resnet50_pascal"
    assert config.get_config("yolact_resnet50_pascal").name is None
    config.set_cfg("yolact_base")
    assert held == config.get_config("yolact_base")


def test_set_cfg_with_a_saved_config_refuses_unknown_keys():
    saved = {**config.get_config("yolact_im400").to_dict(), "use_gt_bboxes": False}
    with pytest.raises(ConfigError, match="unknown config key 'use_gt_bboxes'"):
        config.set_cfg(saved)
    assert cfg.max_size == 550


def test_set_dataset_changes_nothing_else():
    expected = {**cfg.to_dict(), "dataset": config.get_dataset("demo").to_dict()}
    config.set_dataset("demo_dataset")
    assert cfg.to_dict() == expected and cfg.num_classes == 4


def test_the_example_at_the_head_of_the_file_works(tmp_path):
    example = re.search(r"\n(    fish_dataset = .*?\n    \}\)\n)\n", config.__doc__, flags=re.DOTALL).group(1)
    assert len(example.splitlines()) <= 10
    source = Path(config.__file__).read_text(encoding="utf-8")
    networks, look_up, rest = re.split(r"\n(# -+ Look-up.*\n)", source)
    edited_file = tmp_path / "edited_config.py"
    edited_file.write_text(networks + textwrap.dedent(example) + look_up + rest, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("edited_config", edited_file)
    edited = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(edited)

    edited.set_cfg("yolact_fish_config")
    assert edited.cfg.dataset.class_names is None and edited.cfg.name == "yolact_fish"
    edited.cfg.dataset.class_names = ["salmon", "pike"]  # as train.py takes them from the JSON
    assert edited.cfg.num_classes == 3
    assert edited.cfg.dataset.label_map is None
    assert edited.get_dataset("fish").train_info == "./data/fish/train.json"


def test_without_class_names_their_number_is_not_known_yet():
    fish = cfg.copy({"dataset": {"class_names": None}})
    assert fish.dataset.label_map is None, "it numbered the names that were there"
    with pytest.raises(ConfigError, match="dataset.class_names is None.*when the JSON is read"):
        _ = fish.num_classes
    assert fish.copy({"dataset": {"class_names": ["salmon"]}}).num_classes == 2
    with pytest.raises(ConfigError, match="contradicts|is None"):
        fish.copy({"num_classes": 7})


# ------------------------------------------------------------------------- Overrides of the command line


@pytest.mark.parametrize(("assignment", "key", "expected"), [
    ("max_size=400", "max_size", 400),
    ("max_iter=8e4", "max_iter", 80000),
    ("lr=1", "lr", 1.0),
    ("freeze_bn=True", "freeze_bn", True),
    ("lr_steps=(1, 2)", "lr_steps", [1, 2]),
    ("optimizer=adamw", "optimizer", "adamw"),
    ("optimizer='adamw'", "optimizer", "adamw"),
    ("name=None", "name", None),
    ("dataset.valid_info=../my data/a=b.json", "dataset.valid_info", "../my data/a=b.json"),
    ("dataset.name=2017", "dataset.name", "2017"),
    ("dataset.train_images=", "dataset.train_images", ""),
    ("dataset.class_names=('fish',)", "dataset.class_names", ["fish"]),
    ("dataset.label_map={7: 1}", "dataset.label_map", {7: 1}),
    ("dataset.label_map=None", "dataset.label_map", None),
    ("backbone.transform.normalize=False", "backbone.transform.normalize", False),
    ("backbone.path=weights/r50.npz", "backbone.path", "weights/r50.npz"),
    ("mask_proto_net=[(8, 3, {'padding': 1}), (4, 1, {})]", "mask_dim", 4),
])
def test_overrides_are_read_as_literals(assignment, key, expected):
    config.apply_overrides([assignment])
    value = cfg
    for part in key.split("."):
        value = getattr(value, part)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(("assignment", "message"), [
    ("max_size", "-o max_size: write it as KEY=VALUE"),
    ("=3", "-o =3: write it as KEY=VALUE"),
    ("max_sise=3", "did you mean 'max_size'?"),
    ("valid_info=x", "did you mean 'dataset.valid_info'?"),
    ("dataset.valid_inf=x", "did you mean 'dataset.valid_info'?"),
    ("datasets.valid_info=x", "did you mean 'dataset.valid_info'?"),
    ("mask_proto_net.0=3", "unknown config key 'mask_proto_net.0'; did you mean 'mask_proto_net'?"),
    ("fpn=3", "fpn is a group of keys; set one of fpn.num_features, "),
    ("max_size=big", "max_size=big is not a Python literal; write it like 550"),
    ("max_size=__import__('os')", "is not a Python literal"),
    ("freeze_bn=true", "freeze_bn=true is not a Python literal; write it like False"),
    ("max_size='400'", "max_size='400' is of type str"),
    ("lr_steps=5", "lr_steps=5 is of type int"),
    ("dataset.class_names=('fish')", "is a string; write ('fish',)"),
    ("optimizer=rmsprop", "write one of sgd, adamw"),
    ("num_classes=5", "num_classes=5 contradicts 81"),
])
def test_a_wrong_assignment_changes_nothing(assignment, message):
    before = cfg.to_dict()
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.apply_overrides(["lr=0.5", assignment])
    assert cfg.to_dict() == before


def test_overrides_apply_together_and_the_last_wins():
    config.apply_overrides(["lr=0.5", "num_classes=3", "dataset.class_names=['a', 'b']", "lr=0.25",
                            "max_size=110", "backbone.pred_scales=[[1], [2], [3], [4], [5]]"])
    assert (cfg.lr, cfg.num_classes, cfg.max_size) == (0.25, 3, 110)
    assert cfg.backbone.pred_scales == [[1], [2], [3], [4], [5]]
    config.apply_overrides([])
    assert cfg.lr == 0.25


def test_an_override_edits_the_data_set_that_was_chosen_before():
    config.set_dataset("coco2017_testdev")
    config.apply_overrides(["dataset.valid_info=mine.json"])
    assert cfg.dataset.valid_info == "mine.json" and cfg.dataset.has_gt is False
    assert config.get_dataset("coco2017_testdev").valid_info.endswith("image_info_test-dev2017.json")


@pytest.mark.parametrize("assignment", [
    "max_size=0x" + "f" * 400, "max_iter=0x" + "f" * 5000, "lr=0x" + "f" * 400, "max_size=9.3e18"])
def test_an_integer_that_is_too_large_is_refused(assignment):
    with pytest.raises(ConfigError, match="more than 63 bits"):
        config.apply_overrides([assignment])


def test_a_key_that_only_looks_like_a_number_stays_text():
    with pytest.raises(ConfigError, match="label_map"):  # its keys are numbers; int("²") is an error
        config.apply_overrides(["dataset.label_map={'²': 1}"])


def test_a_pyramid_of_a_thousand_million_levels_is_not_walked_through():
    config.get_config("yolact_plus_base").copy({"fpn": {"num_downsample": 10 ** 9}})


def test_a_message_is_one_line_whatever_it_quotes():
    with pytest.raises(ConfigError) as caught:
        config.make_config("yolact\nbase\u2028")
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_was_none_becomes_text_only():
    cfg.update_in_place(config.get_config("yolact_demo"))  # its backbone has no path
    with pytest.raises(ConfigError, match="backbone.path=2017 has to be a text.*needs quotes"):
        config.apply_overrides(["backbone.path=2017"])
    config.apply_overrides(["backbone.path='2017'"])
    assert cfg.backbone.path == "2017"
