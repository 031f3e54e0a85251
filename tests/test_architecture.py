"""Keeps the shape of the repository: who may import whom, what library code may not do, no dead keys."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ("data", "layers", "utils", "tools")
TOP_LEVEL = ("train", "eval", "yolact", "backbone")
OURS = (*PACKAGES, *TOP_LEVEL)

# Modules of ours that a module, or any module of a package, may import; a module's own entry goes first.
MAY_IMPORT = {
    "data.config": ("data.config_types",),
    "data.config_types": ("data.config_checks", "data.feature_maps"),
    "data.config_checks": (),
    "data.feature_maps": (),
    "data": ("data",),
    "layers": ("layers",),
    "utils": ("utils",),
    # What detects for eval.py, train.py and programs, and what makes networks ready for it.
    "utils.predictor": ("yolact", "layers", "data", "utils"),
    "utils.networks": ("yolact", "data", "utils"),
    "utils.exporting": ("backbone", "layers", "data", "utils"),
    # The modes of eval.py.
    "utils.eval_outputs": ("data", "utils"),
    "utils.eval_pictures": ("data", "utils"),
    "utils.verification": ("layers", "data", "utils"),
    "backbone": (),
    "yolact": ("backbone", "layers"),
    "eval": ("yolact", "backbone", "layers", "data", "utils"),
    "train": ("eval", "yolact", "backbone", "layers", "data", "utils"),
    "tools": ("tools", "eval", "yolact", "backbone", "layers", "data", "utils"),
}
# Third-party packages, where the choice matters: data sets and configs must load without the framework.
MAY_IMPORT_OUTSIDE = {
    "data.config": (),
    "data.config_types": (),
    "data.config_checks": (),
    "data.feature_maps": (),
    "data": ("numpy", "cv2", "pycocotools"),
    "layers": ("numpy", "paddle"),
    "backbone": ("numpy", "paddle"),
    "yolact": ("numpy", "paddle"),
}
FORBIDDEN_ATTRIBUTES = (  # outside the commands
    "sys.argv", "sys.orig_argv", "sys.exit", "os._exit")
ALLOWED_ATTRIBUTES = {("utils.loader", "os._exit")}  # ends a worker whose parent is gone, not the command
LIBRARY = ("data", "layers", "backbone", "yolact")  # code that never prints
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MAX_FUNCTION_LINES, MAX_FILE_LINES, MAX_TEST_LINES = 50, 350, 700
# Files and functions that are longer, and why.
LONGER = {"data/config.py": "every class list and named config is in one file, as in the original"}
# Values whose keys are not ours: keyword arguments of a layer of Paddle, and category ids.
PASSED_WHOLE = ("head_layer_params", "label_map")
IGNORED_FOLDERS = {
    ".git", ".venv", "venv", "__pycache__", "results", "logs", "weights", ".pytest_cache", ".ruff_cache"}


def source_files():
    """Every Python file of the project itself, tests apart, as {dotted module name: path}."""
    paths = [REPO / f"{name}.py" for name in TOP_LEVEL]
    paths += [path for package in PACKAGES for path in sorted((REPO / package).rglob("*.py"))]
    modules = {}
    for path in paths:
        if path.exists():
            parts = path.relative_to(REPO).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


SOURCES = source_files()
TREES = {module: ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))
         for module, path in SOURCES.items()}
MODULES = sorted(SOURCES)


def imported_modules(module, tree):
    """Absolute dotted names of everything `module` imports, inside functions too, as (name, line)."""
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[:len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).strip(".")
            for alias in node.names:
                dotted = f"{base}.{alias.name}"
                yield (dotted if dotted in SOURCES else base), node.lineno


def rule_for(module, rules):
    """The rule of the module itself, else of its package; None when neither has one."""
    return rules.get(module, rules.get(module.split(".")[0]))


def is_inside(module, names):
    return module in names or module.split(".")[0] in names


def where(module, line):
    return f"{SOURCES[module].relative_to(REPO)}:{line}"


def name_of(node):
    """`a.b.c` for a name or an attribute chain, else ''."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def calls(tree):
    return [(name_of(node.func), node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_the_tree_is_there():
    missing = [name for name in (*TOP_LEVEL, "data.config", "data.coco") if name not in SOURCES]
    missing += [name for name in PACKAGES if not any(module.split(".")[0] == name for module in MODULES)]
    assert not missing, f"not found: {missing}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    allowed = rule_for(module, MAY_IMPORT)
    wrong = []
    for name, line in imported_modules(module, TREES[module]):
        if name.split(".")[0] in OURS and name != module and not is_inside(name, allowed):
            wrong.append(f"{where(module, line)} imports {name}; allowed: {allowed or 'nothing of ours'}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [m for m in MODULES if rule_for(m, MAY_IMPORT_OUTSIDE) is not None])
def test_data_and_layers_keep_to_their_libraries(module):
    allowed = rule_for(module, MAY_IMPORT_OUTSIDE)
    standard = getattr(sys, "stdlib_module_names", None)
    if standard is None:
        pytest.skip("Python 3.9 has no list of the standard library; the newer versions check this")
    wrong = []
    for name, line in imported_modules(module, TREES[module]):
        top = name.split(".")[0]
        if top not in standard and top not in OURS and top not in allowed:
            wrong.append(f"{where(module, line)} imports {name}; allowed: {allowed or 'standard library'}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] not in ("train", "eval", "tools")])
def test_only_commands_read_argv_or_exit(module):
    tree = TREES[module]
    wrong = [f"{where(module, node.lineno)} uses {name_of(node)}" for node in ast.walk(tree)
              if isinstance(node, ast.Attribute) and name_of(node) in FORBIDDEN_ATTRIBUTES
              and (module, name_of(node)) not in ALLOWED_ATTRIBUTES]
    wrong += [f"{where(module, node.lineno)} uses {node.id}" for node in ast.walk(tree)
              if isinstance(node, ast.Name) and node.id in ("exit", "quit", "SystemExit")]
    wrong += [f"{where(module, line)} makes a parser" for name, line in calls(tree)
              if name.rpartition(".")[2] == "ArgumentParser"]
    wrong += [f"{where(module, node.lineno)} imports {alias.name} from sys" for node in ast.walk(tree)
              if isinstance(node, ast.ImportFrom) and node.module == "sys"
              for alias in node.names if alias.name in ("argv", "exit", "orig_argv")]
    assert not wrong, "argv and exit belong to train.py, eval.py and tools/:\n" + "\n".join(wrong)


@pytest.mark.parametrize("module", [module for module in MODULES if module.split(".")[0] in LIBRARY])
def test_library_code_does_not_print(module):
    forbidden = ("print", "sys.stdout.write")
    wrong = [where(module, line) for name, line in calls(TREES[module]) if name in forbidden]
    assert not wrong, f"raise, warn or use logging instead of print: {wrong}"


def test_no_star_imports_no_bare_except_no_eval():
    trees = dict(TREES)
    paths = dict(SOURCES)
    for path in sorted((REPO / "tests").glob("*.py")):
        paths[path.stem] = path
        trees[path.stem] = ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))
    wrong = []
    for module, tree in trees.items():
        for node in ast.walk(tree):
            place = f"{paths[module].relative_to(REPO)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                wrong.append(f"{place} import *")
            elif isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{place} bare except")
            elif isinstance(node, ast.Call) and name_of(node.func) in ("eval", "exec"):
                wrong.append(f"{place} {name_of(node.func)}()")
    assert not wrong, "\n".join(wrong)


def functions_of(tree):
    """(name with its class, node, whether it is public) of the functions of a module and the methods of its classes."""
    for node in tree.body:
        if isinstance(node, FUNCTIONS):
            yield node.name, node, not node.name.startswith("_")
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, FUNCTIONS):
                    is_public = not node.name.startswith("_") and not re.match(r"_(?!_)", method.name)
                    yield f"{node.name}.{method.name}", method, is_public


def test_public_functions_have_type_hints():
    wrong = []
    for module, tree in TREES.items():
        for name, node, is_public in functions_of(tree):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs,
                         *filter(None, (node.args.vararg, node.args.kwarg))]
            without = [argument.arg for argument in arguments
                       if argument.annotation is None and argument.arg not in ("self", "cls")]
            if node.returns is None and not name.endswith(".__init__"):
                without.append("the return")
            if is_public and without:
                wrong.append(f"{where(module, node.lineno)} {name}: {', '.join(without)}")
    assert not wrong, f"{len(wrong)} functions without type hints:\n" + "\n".join(wrong)


def test_public_functions_and_classes_say_what_they_do():
    """Modules too; methods of a class with a base, which may implement what that one describes, need not."""
    wrong = [str(SOURCES[module].relative_to(REPO)) for module, tree in TREES.items() if not ast.get_docstring(tree)]
    for module, tree in TREES.items():
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        derived = {node.name for node in classes if node.bases}
        named = [(node.name, node, not node.name.startswith("_")) for node in classes] + [
            (name, node, is_public) for name, node, is_public in functions_of(tree)
            if not name.endswith("__") and name.partition(".")[0] not in derived]
        wrong += [f"{where(module, node.lineno)} {name}" for name, node, is_public in named
                  if is_public and not ast.get_docstring(node)]
    assert not wrong, f"{len(wrong)} without a docstring:\n" + "\n".join(wrong)


def test_files_are_short():
    lines = {path.relative_to(REPO).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
             for path in [*SOURCES.values(), *(REPO / "tests").glob("*.py")]}
    wrong = [f"{name}: {count} lines, at most {limit}" for name, count in lines.items()
             for limit in [MAX_TEST_LINES if name.startswith("tests/") else MAX_FILE_LINES]
             if count > limit and name not in LONGER]
    assert not wrong, "split by subject:\n" + "\n".join(wrong)


def test_functions_are_short():
    lines = {f"{module}.{name}": node.end_lineno - node.lineno + 1
             for module, tree in TREES.items() for name, node, _ in functions_of(tree)}
    wrong = [f"{name}: {count} lines, at most {MAX_FUNCTION_LINES}" for name, count in lines.items()
             if count > MAX_FUNCTION_LINES and name not in LONGER]
    assert not wrong, "\n".join(wrong)


def _runs_at_import(node):
    """Nodes under `node` that run at import: not the bodies of functions, nor that of the main guard."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for default in [*child.args.defaults, *filter(None, child.args.kw_defaults)]:
                yield default
                yield from _runs_at_import(default)
            continue
        if isinstance(child, ast.If) and "__name__" in ast.dump(child.test):
            continue
        yield child
        yield from _runs_at_import(child)


def test_importing_calls_nothing_of_paddle():
    wrong = []
    for module, tree in TREES.items():
        for node in _runs_at_import(tree):
            if isinstance(node, ast.Call) and name_of(node.func).split(".")[0] == "paddle":
                wrong.append(f"{where(module, node.lineno)} calls {name_of(node.func)} at import")
    assert not wrong, "\n".join(wrong)


def test_importing_is_silent_and_leaves_nothing_behind(tmp_path):
    # The framework comes first: its own warnings are not ours, and its entry points can be guarded.
    script = """
import sys
import numpy  # before Paddle 2.6.2, or pycocotools crashes
import paddle

def refuse(*args, **kwargs):
    raise AssertionError("a device was touched at import")

for owner in (paddle, paddle.device):
    owner.set_device = refuse
paddle.to_tensor = paddle.zeros = paddle.ones = paddle.seed = refuse
sys.stdout.flush()
sys.stderr.flush()
print("IMPORTING", flush=True)
print("IMPORTING", file=sys.stderr, flush=True)
import train, eval, yolact
"""
    environment = dict(os.environ, PYTHONPATH=str(REPO), PYTHONDONTWRITEBYTECODE="1", CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([sys.executable, "-c", script, "--no-such-option"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.partition("IMPORTING\n")[2] == "", "importing wrote to stdout"
    assert done.stderr.partition("IMPORTING\n")[2] == "", "importing wrote to stderr"
    assert list(tmp_path.iterdir()) == [], "importing made files"


def _config_keys(config, found):
    """Adds every key of a Config, and of the Configs inside it, to the set `found`."""
    for key, value in config.items():
        found.add(key)
        if isinstance(value, Mapping) and key not in PASSED_WHOLE:
            _config_keys(value, found)


def test_every_config_key_is_read_somewhere():
    from data import config as config_module

    keys = set()
    for value in vars(config_module).values():
        if isinstance(value, config_module.Config):
            _config_keys(value, keys)
    assert len(keys) > 40, "the configs were not found"

    # A key is read as `cfg.key`, as cfg["key"], or as the argument of a layer built with `**cfg.fpn`.
    read = set()
    for module, tree in TREES.items():
        if module in ("data.config", "data.config_types"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
            elif isinstance(node, ast.arg):
                read.add(node.arg)
    dead = sorted(keys - read)
    assert not dead, f"keys that nothing reads; remove them from data/config.py: {dead}"


def _text_files():
    try:
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                                cwd=REPO, capture_output=True, check=True).stdout
        paths = [REPO / os.fsdecode(name) for name in listed.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):  # an archive without git
        paths = [path for path in REPO.rglob("*") if not IGNORED_FOLDERS & set(path.relative_to(REPO).parts)]
    for path in sorted(set(paths)):
        if path.is_file():
            content = path.read_bytes()
            if b"\0" not in content[:8192]:
                yield path, content.decode("utf-8", errors="replace")


def test_nothing_names_a_place_on_one_machine():
    # A first folder that only one machine has; `https://host/home/` and `a/tmp/` are not such places.
    machine_path = re.compile(r"(?<![\w.}])/(?:tmp|work|root|home|Users|mnt|opt)/[\w.]")
    beside_the_clone = re.compile(r"\.\./shared")
    wrong = []
    for path, text in _text_files():
        relative = path.relative_to(REPO).as_posix()
        for number, line in enumerate(text.splitlines(), 1):
            if machine_path.search(line) or (beside_the_clone.search(line) and relative != ".ci/run"):
                wrong.append(f"{relative}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)


def _requirements(name):
    lines = (REPO / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def test_the_gpu_list_is_the_cpu_list_with_the_other_paddle():
    cpu, gpu = _requirements("requirements.txt"), _requirements("requirements-gpu.txt")
    assert [re.sub(r"^paddlepaddle\b", "paddlepaddle-gpu", line) for line in cpu] == gpu
    unbounded = [line for line in cpu + _requirements("requirements-dev.txt") + _requirements("requirements-fast.txt")
                 if not re.fullmatch(r"[\w-]+>=[\d.]+|-r requirements-fast.txt", line)]
    assert not unbounded, f"every requirement has one lower bound: {unbounded}"
