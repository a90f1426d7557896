"""The rules of the house, read from the source alone; docs/architecture.md says them in words.

A rule turns a package into a list of complaints. Each is also run on a small bad package, so that
it is seen to fail.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

from tests.support.source_tree import Package, dotted

REPOSITORY = Path(__file__).parents[1]

FLOORS = {
    0: "errors",
    1: "foundation",
    2: "options views encoders data",
    3: "pairwise clustering vectors",
    4: "methods",
    5: "training evaluation retrieval clusters classifier reports",
    6: "recipe",
    7: "commands",
    8: "api",
    9: "cli",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}

CODE_RUNNERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NETWORK = {"urllib.request", "http.client", "requests", "httpx", "ftplib", "telnetlib", "smtplib"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen"}
UNSAFE_YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
PILLOW_GLOBALS = {"MAX_IMAGE_PIXELS", "LOAD_TRUNCATED_IMAGES"}
CHECKPOINT_IMPORTER = "encoders.imported.checkpoint_file"
HEAVY = {"torch", "numpy", "pyarrow", "PIL", "timm", "sklearn"}


def floors(package: Package) -> Iterator[str]:
    """Imports point down or sideways, also those inside functions and those for types."""
    tops = {name: name.split(".")[0] for name in package.trees if name}
    for name in tops:
        if tops[name] not in FLOOR_OF:
            yield f"{name} stands on no floor"
            return
    for edge in package.imports:
        if edge.source and FLOOR_OF[tops[edge.target]] > FLOOR_OF[tops[edge.source]]:
            yield f"{edge.source} imports {edge.target} from a higher floor"


def cycles(package: Package) -> Iterator[str]:
    for ring in package.cycles():
        yield "cycle: " + " -> ".join(ring)


def methods_apart(package: Package) -> Iterator[str]:
    """A method imports the protocol, never another method."""
    shared = {"methods", "methods.method"}
    for edge in package.imports:
        if edge.source in _methods(package) and edge.target in set(_methods(package)) - shared:
            yield f"{edge.source} imports the method {edge.target}"


def sizes(package: Package) -> Iterator[str]:
    for name in package.trees:
        limit = 200 if name in _methods(package) else 400
        if package.lines(name) > limit:
            yield f"{name} has {package.lines(name)} lines, more than {limit}"
    for function in package.functions:
        if function.lines > 60:
            yield f"{function.module}.{function.name} has {function.lines} lines, more than 60"


def typical_sizes(package: Package) -> Iterator[str]:
    lengths = [function.lines for function in package.functions]
    if len(lengths) > 1 and median(lengths) > 10:
        yield f"the median function has {median(lengths)} lines, more than 10"
    if len(lengths) > 1 and (ninth := quantiles(lengths, n=10, method="inclusive")[8]) > 30:
        yield f"the 90th percentile of functions is {ninth} lines, more than 30"


def reach(package: Package) -> Iterator[str]:
    """How much must be read to follow a method or a command; imports in functions count too."""
    limits = dict.fromkeys(_methods(package), (12, 1_800))
    limits |= dict.fromkeys(_commands(package), (110, 20_000))
    limits["commands.pretrain"] = (75, 13_000)
    for name in limits.keys() & package.trees.keys():
        closure = package.closure(name)
        files, lines = len(closure), sum(map(package.lines, closure))
        if files > limits[name][0] or lines > limits[name][1]:
            yield f"{name} reaches {files} files of {lines} lines: {', '.join(sorted(closure))}"


def commands_apart(package: Package) -> Iterator[str]:
    """No command imports another; the demo, which plays them all, may."""
    commands = set(_commands(package))
    for edge in package.imports:
        if edge.source in commands - {"commands.demo"} and edge.target in commands:
            yield f"{edge.source} imports the command {edge.target}"


def api_names_free(package: Package) -> Iterator[str]:
    """No module of the root is named like a function of the Python API, which it would hide."""
    tree = package.trees.get("", ast.Module([], []))
    public = {
        name.value
        for node in tree.body
        if isinstance(node, ast.Assign) and dotted(node.targets[0]) == "__all__"
        for name in ast.walk(node.value)
        if isinstance(name, ast.Constant)
    }
    for name in sorted({name.split(".")[0] for name in package.trees} & public):
        yield f"the module {name} hides the function {name} of the API"


def names_once(package: Package) -> Iterator[str]:
    """No two modules, public classes or public functions share a name."""
    places: dict[tuple[str, str], list[str]] = {}
    for module, tree in package.trees.items():
        if not package.paths[module].name.startswith("__"):
            places.setdefault(("modules", module.rpartition(".")[2]), []).append(module)
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                kind = "classes" if isinstance(node, ast.ClassDef) else "functions"
                places.setdefault((kind, node.name), []).append(module)
    for (kind, name), modules in places.items():
        if len(modules) > 1:
            yield f"{len(modules)} {kind} are called {name}: {', '.join(modules)}"


def light_command_line(package: Package) -> Iterator[str]:
    """What --help needs imports nothing heavy before a command runs."""
    light = {n for n in package.trees if n.split(".")[0] in ("options", "cli", "api")}
    for name in {m for start in light for m in package.closure(start, late=False)}:
        for node in package.trees[name].body:
            for module in _imported(node):
                if module.split(".")[0] in HEAVY:
                    yield f"{name} imports {module}"


def safe_calls(package: Package) -> Iterator[str]:
    """No file that is read, and no option, can run code."""
    for name, tree in package.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                complaint = _call_complaint(name, node)
                yield from [f"{name}:{node.lineno} {complaint}"] if complaint else []


def safe_imports(package: Package) -> Iterator[str]:
    """No pickle and no network; `load` of torch, numpy and yaml only under its full name."""
    for name, tree in package.trees.items():
        for node in ast.walk(tree):
            for module in _imported(node):
                if module.split(".")[0] in CODE_RUNNERS or module in NETWORK:
                    yield f"{name} imports {module}"
                if module in ("torch.load", "numpy.load", *UNSAFE_YAML):
                    yield f"{name} hides {module}"


def pillow_globals(package: Package) -> Iterator[str]:
    for name, tree in package.trees.items():
        for node in ast.walk(tree):
            stored = isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)
            if stored and dotted(node).rpartition(".")[2] in PILLOW_GLOBALS:
                yield f"{name}:{node.lineno} sets {dotted(node)}"
            if isinstance(node, ast.Call) and dotted(node.func) == "setattr":
                words = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                yield from (f"{name}:{node.lineno} sets {w}" for w in words & PILLOW_GLOBALS)


def no_method_names(package: Package) -> Iterator[str]:
    """Nothing outside `methods` asks which method it is."""
    registered = _registered(package)
    for name, tree in package.trees.items():
        if name.split(".")[0] == "methods":
            continue
        for node in ast.walk(tree):
            compared = isinstance(node, ast.Compare | ast.match_case)
            asked = node.pattern if isinstance(node, ast.match_case) else node
            words = {n.value for n in ast.walk(asked) if isinstance(n, ast.Constant)}
            if compared and words & registered:
                yield f"{name} compares with a method's name: {words & registered}"


def no_utils(package: Package) -> Iterator[str]:
    for name in package.trees:
        if name.split(".")[-1] in ("utils", "util", "helpers", "common", "misc"):
            yield f"{name} says nothing about what is in it"


RULES = (
    *(floors, cycles, methods_apart, commands_apart, sizes, typical_sizes, reach),
    *(api_names_free, names_once, light_command_line),
    *(safe_calls, safe_imports, pillow_globals, no_method_names, no_utils),
)


def _methods(package: Package) -> list[str]:
    return [n for n in package.trees if n.startswith("methods.") and n != "methods.method"]


def _commands(package: Package) -> list[str]:
    return [n for n in package.trees if n.startswith("commands.") and n != "commands.result"]


def _registered(package: Package) -> set[str]:
    tree = package.trees.get("methods", ast.Module([], []))
    tables = [n.value for n in ast.walk(tree) if isinstance(n, ast.Assign)]
    return {k.value for t in tables if isinstance(t, ast.Dict) for k in t.keys}


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _call_complaint(module: str, call: ast.Call) -> str | None:
    called = dotted(call.func)
    given = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
    if called in FORBIDDEN_CALLS | UNSAFE_YAML or given.get("shell") is True:
        return f"calls {called} (shell=True is no better)"
    if called in ("np.load", "numpy.load") and given.get("allow_pickle") is not False:
        return "calls np.load without allow_pickle=False"
    if called == "torch.load":
        safe = module == CHECKPOINT_IMPORTER and given.get("weights_only") is True
        return None if safe else "calls torch.load"
    return None


@pytest.fixture(scope="module")
def selftaught() -> Package:
    return Package(REPOSITORY / "src/selftaught")


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule, selftaught):
    assert list(rule(selftaught)) == []


LONG = "def f():\n" + "    x = 1\n" * 61
MANY_LONG = "\n".join(f"def f{i}():\n" + "    x = 1\n" * 31 for i in range(9))
CHAIN = {f"views/v{i}.py": f"from pkg.views import v{i + 1}\n" for i in range(11)}
LONG_CHAIN = {f"views/v{i}.py": f"from pkg.views import v{i + 1}\n" for i in range(120)}
LONG_CHAIN["views/v120.py"] = ""
BAD = [
    (floors, {"views/a.py": "import pkg.methods.b", "methods/b.py": ""}, "higher floor"),
    (floors, {"errors.py": "def f():\n    from pkg.api import x", "api.py": ""}, "higher floor"),
    (
        floors,
        {"data/a.py": "if TYPE_CHECKING:\n    from ..training import x", "training/x.py": ""},
        "higher floor",
    ),
    (floors, {"stuff.py": ""}, "no floor"),
    (cycles, {"api.py": "from pkg import cli", "cli.py": "from pkg.api import x"}, "cycle"),
    (
        cycles,
        {"api.py": "def f():\n from . import cli", "cli.py": "from . import api"},
        "cycle",
    ),
    (methods_apart, {"methods/a.py": "from pkg.methods.b import B", "methods/b.py": ""}, "imports"),
    (sizes, {"cli.py": "x = 1\n" * 401}, "more than 400"),
    (sizes, {"methods/a.py": "x = 1\n" * 201}, "more than 200"),
    (sizes, {"cli.py": LONG}, "more than 60"),
    (typical_sizes, {"cli.py": MANY_LONG}, "median"),
    (typical_sizes, {"cli.py": MANY_LONG}, "90th percentile"),
    (reach, CHAIN | {"views/v11.py": "", "methods/a.py": "from pkg.views import v0"}, "13 files"),
    (
        reach,
        {"commands/pretrain.py": "def f():\n    from pkg import cli", "cli.py": "x = 1\n" * 13000},
        "13002 lines",
    ),
    (reach, {"commands/embed.py": "from pkg.views import v0", **LONG_CHAIN}, "122 files"),
    (
        commands_apart,
        {"commands/a.py": "def f():\n    from pkg.commands import b", "commands/b.py": ""},
        "imports the command commands.b",
    ),
    (api_names_free, {"__init__.py": "__all__ = ['views']", "views/a.py": ""}, "hides"),
    (names_once, {"views/a.py": "class A: ...", "data/b.py": "class A: ..."}, "2 classes"),
    (names_once, {"views/a.py": "def f(): ...", "data/b.py": "def f(): ..."}, "2 functions"),
    (names_once, {"views/a.py": "", "data/a.py": ""}, "2 modules"),
    (
        light_command_line,
        {"options/a.py": "from pkg import errors", "errors.py": "import torch"},
        "imports torch",
    ),
    (safe_calls, {"cli.py": "eval('1')"}, "eval"),
    (safe_calls, {"cli.py": "exec('1')"}, "exec"),
    (safe_calls, {"cli.py": "yaml.load(text, yaml.Loader)"}, "yaml.load"),
    (safe_calls, {"cli.py": "subprocess.run('ls', shell=True)"}, "shell"),
    (safe_calls, {"cli.py": "np.load(path)"}, "np.load"),
    (safe_calls, {"cli.py": "np.load(path, allow_pickle=True)"}, "np.load"),
    (safe_calls, {"cli.py": "torch.load(path, weights_only=True)"}, "torch.load"),
    (safe_calls, {"encoders/imported/checkpoint_file.py": "torch.load(path)"}, "torch.load"),
    (safe_imports, {"cli.py": "def f():\n    import pickle"}, "pickle"),
    (safe_imports, {"cli.py": "from torch import load"}, "torch.load"),
    (safe_imports, {"cli.py": "from urllib import request"}, "urllib.request"),
    (pillow_globals, {"cli.py": "Image.MAX_IMAGE_PIXELS = None"}, "MAX_IMAGE_PIXELS"),
    (pillow_globals, {"cli.py": "ImageFile.LOAD_TRUNCATED_IMAGES = True"}, "TRUNCATED"),
    (pillow_globals, {"cli.py": "setattr(Image, 'MAX_IMAGE_PIXELS', None)"}, "MAX_IMAGE"),
    (no_method_names, {"api.py": "if method == 'new':\n    pass"}, "'new'"),
    (no_method_names, {"api.py": "x = method in ('old', 'new')"}, "'new'"),
    (no_method_names, {"api.py": "match m:\n    case 'new':\n        pass"}, "'new'"),
    (no_utils, {"views/utils.py": ""}, "utils"),
]


@pytest.mark.parametrize(("rule", "files", "complaint"), BAD)
def test_the_rule_sees_a_bad_package(rule, files, complaint, tmp_path):
    registry = {"methods/__init__.py": "REGISTRY = {'new': 'pkg.methods.new:New'}\n"}
    assert any(complaint in line for line in rule(_write(tmp_path / "pkg", files | registry)))


def test_every_rule_is_seen_to_fail():
    assert {rule for rule, _, _ in BAD} == set(RULES)


def test_a_good_package_has_no_complaint(tmp_path):
    files = {
        "__init__.py": "def __getattr__(name):\n    from pkg import api\n",
        "errors.py": "from pkg import __version__\nmodel.eval()\nyaml.safe_load(text)",
        "foundation/files.py": "setattr(a, name, 1)",
        "commands/b.py": "import numpy as np\nfrom pkg import errors\n"
        "np.load(path, allow_pickle=False)",
        "encoders/imported/checkpoint_file.py": "torch.load(path, weights_only=True)",
        "methods/a.py": "if TYPE_CHECKING:\n    from pkg.data import d\nx = 'a' == name",
        "data/d.py": 'def f():\n    """' + "words\n" * 70 + '    """\n    return 1\n',
    }
    package = _write(tmp_path / "pkg", files)
    assert [line for rule in RULES for line in rule(package)] == []


def test_the_tree_in_the_architecture_page_is_the_tree(selftaught):
    """docs/architecture.md names every module once; a folder's line stands for its __init__."""
    page = (REPOSITORY / "docs/architecture.md").read_text()
    named = Counter(_tree_in(page))
    files = {str(p.relative_to(selftaught.root)) for p in selftaught.paths.values()}
    assert {name for name, count in named.items() if count > 1} == set()
    assert set(named) == {f for f in files if not f.endswith("/__init__.py")}


def _tree_in(page: str) -> list[str]:
    """The .py files of the block that begins with `src/selftaught/`, with their folders."""
    block = page.split("```text\nsrc/selftaught/\n")[1].split("```")[0]
    found, folder = [], ""
    for line in block.splitlines():
        indent, name = re.match(r"( *)(\S*)", line).groups()
        if name.endswith("/"):
            folder = name
        elif name.endswith(".py"):
            found.append(name if len(indent) == 2 else folder + name)
    return found


def _write(root: Path, files: dict[str, str]) -> Package:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Package(root)
