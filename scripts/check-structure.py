#!/usr/bin/env python3
"""Holds the structure of every crate: no circle between its files, and none too long.

    scripts/check-structure.py            every crate of the workspace
    scripts/check-structure.py CRATE ...  only these folders

A file depends on the file that defines what it imports: imports are resolved through re-exports, so that a flat list of
names in `lib.rs` hides nothing. Declaring a module is no dependency, and neither is what only tests import.
"""

import collections
import os
import re
import sys

MAX_FILE_LINES = 400
MAX_STORE_LINES = 250  # `store.rs` is the contract and nothing else.
MAX_FUNCTION_LINES = 60


def expand(tree):
    """The paths of one `use` tree."""
    tree = re.sub(r"\s+", " ", tree.strip())
    brace = tree.find("{")
    if brace < 0:
        return [re.sub(r" as \w+", "", tree)]
    parts, depth, part = [], 0, ""
    for char in tree[brace + 1 : tree.rfind("}")]:
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += char
    return [path for part in parts + [part] if part.strip() for path in expand(tree[:brace] + part.strip())]


class Crate:
    def __init__(self, folder):
        self.source = os.path.join(folder, "src")
        self.files, self.text, self.items, self.exports = {}, {}, {}, collections.defaultdict(dict)
        for directory, _, names in os.walk(self.source):
            for name in names:
                if name.endswith(".rs"):
                    self.read(os.path.join(directory, name))
        for module, text in self.text.items():
            for tree in re.findall(r"\bpub(?:\([^)]*\))? use\s+([^;]+);", text):
                for path in expand(tree):
                    target = self.absolute(path, module)
                    if target:
                        self.exports[module][target[-1]] = target

    def read(self, path):
        parts = os.path.relpath(path, self.source)[:-3].split("/")
        module = tuple(part for part in parts if part != "mod")
        if module in (("lib",), ("main",)):
            module = ()
        if module and module[-1] == "tests":
            return
        with open(path, encoding="utf-8") as file:
            text = file.read()
        text = re.split(r"^#\[cfg\(test\)\]\s*mod \w+ \{", text, flags=re.M)[0]
        self.files[module] = (path, text.count("\n"))
        self.text[module] = re.sub(r"//.*", "", text)
        item = r"^(?:pub(?:\([^)]*\))? )?(?:async )?(?:const )?(?:struct|enum|trait|fn|type|const|static|macro_rules!) ?(\w+)"
        self.items[module] = set(re.findall(item, self.text[module], re.M))

    def absolute(self, path, module):
        """The path from the root of the crate; `None` for one of another crate."""
        parts = path.replace(" ", "").split("::")
        if parts[0] == "crate":
            return tuple(parts[1:])
        if parts[0] in ("self", "super"):
            base = list(module)
            while parts and parts[0] in ("self", "super"):
                if parts.pop(0) == "super":
                    base = base[:-1]
            return tuple(base + parts)
        return module + tuple(parts) if module + (parts[0],) in self.files else None

    def defining(self, path, depth=0):
        """The module that defines what is at `path`, and the item's name."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.files:
                module, rest = path[:length], path[length:]
                target = self.exports[module].get(rest[0]) if rest else None
                if target and target != path and depth < 8:
                    return self.defining(target + rest[1:], depth + 1)
                return module, rest[0] if rest else None
        return None, None

    def dependencies(self):
        found = collections.defaultdict(set)
        for module, text in self.text.items():
            imports = re.sub(r"\bpub(?:\([^)]*\))? use\s+[^;]+;", "", text)
            paths = [path for tree in re.findall(r"\buse\s+([^;]+);", imports) for path in expand(tree)]
            paths += re.findall(r"\b(?:crate|super|self)(?:::\w+)+", re.sub(r"\buse\s+[^;]+;", "", text))
            for path in paths:
                target, item = self.defining(self.absolute(path, module) or ("?",))
                if target is None or target == module or (target == () and item not in self.items[()]):
                    continue
                found[module].add(target)
        return found

    def circles(self):
        """The strongly connected components of more than one file (Tarjan)."""
        edges, index, low, stack, found = self.dependencies(), {}, {}, [], []

        def visit(node):
            index[node] = low[node] = len(index)
            stack.append(node)
            for other in edges[node]:
                if other not in index:
                    visit(other)
                    low[node] = min(low[node], low[other])
                elif other in stack:
                    low[node] = min(low[node], index[other])
            if low[node] == index[node]:
                component = stack[stack.index(node) :]
                del stack[stack.index(node) :]
                if len(component) > 1:
                    found.append((component, edges))

        for module in list(self.files):
            if module not in index:
                visit(module)
        return found

    def problems(self):
        def shown(module):
            return "::".join(module) or "lib"

        for component, edges in self.circles():
            arrows = [f"{shown(a)} -> {shown(b)}" for a in sorted(component) for b in sorted(edges[a]) if b in component]
            yield f"{self.source}: a circle: {', '.join(arrows)}"
        for path, lines in self.files.values():
            most = MAX_STORE_LINES if os.path.basename(path) == "store.rs" else MAX_FILE_LINES
            if lines > most:
                yield f"{path}: {lines} lines, and {most} are the most"
            yield from functions(path)


def functions(path):
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    for start, line in enumerate(lines):
        head = re.match(r"^(\s*)(?:pub(?:\([^)]*\))? )?(?:const )?(?:async )?fn (\w+)", line)
        if not head or line.rstrip().endswith((";", "}")):
            continue
        ends = (at for at in range(start, len(lines)) if lines[at].startswith(head[1] + "}") or lines[at] == head[1] + ";")
        length = next(ends, start) - start + 1
        if length > MAX_FUNCTION_LINES:
            yield f"{path}: {head[2]} has {length} lines, and {MAX_FUNCTION_LINES} are the most"


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    folders = sys.argv[1:] or sorted(name for name in os.listdir(".") if os.path.exists(f"{name}/src/lib.rs") or os.path.exists(f"{name}/src/main.rs"))
    problems = [problem for folder in folders for problem in Crate(folder).problems()]
    print("\n".join(problems) or f"{len(folders)} crates: no circles, and nothing too long")
    sys.exit(1 if problems else 0)


main()
