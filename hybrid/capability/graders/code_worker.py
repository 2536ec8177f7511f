"""The other side of `code_sandbox`: a bare interpreter that shuts itself in, then runs one program of the model.

Order matters here: the isolation stands before the first byte of the program is read. One JSON request a line, one
JSON reply a line; a reply repeats the nonce of its request, so that no reply can be written before its question.
This process never holds an expected value: whatever the program does to it, it can only change its own answers.
Run as a script on the standard library; not imported. Linux for the isolation, POSIX for the rest.
"""

# ruff: noqa: PTH103, PTH110, PTH112, PTH118, PTH120, PTH123 - started for every answer, and `pathlib` loads slowly

import ctypes
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

SPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
"""New namespaces: mounts, host name, inter-process communication, process ids, network."""
NEW_USER = 0x10000000
RDONLY, NOSUID, NODEV, BIND, REC, PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
DETACH, PDEATHSIG, NO_NEW_PRIVS = 2, 1, 38
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
CAPABILITY_VERSION_3 = 0x20080522
DEEPEST, MOST_NODES = 64, 100_000
CWD = "/tmp"  # noqa: S108 - inside a root of our own
ENDED = 1


class NotPlainError(Exception):
    """A returned value is not made of None, bool, int, float, str, list, tuple and dict with text keys alone."""


def main() -> None:
    """Isolate, limit, then serve until the input ends."""
    settings = json.loads(sys.argv.pop())
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
    try:
        if settings["isolated"]:
            _isolate(settings["folder"], settings["uid"], requests, replies)
        elif os.geteuid() == 0:
            _become(settings["uid"])
        _limit(settings["seconds"], settings["memory_bytes"])
        os.environ.clear()
        import random

        random.seed(0)  # a program that draws numbers is judged alike every time
    except (OSError, ValueError, AttributeError, ImportError) as error:
        os.write(replies, json.dumps({"setup": str(error)}).encode() + b"\n")
        os._exit(ENDED)
    os.write(replies, b'{"ready": true}\n')
    _serve(requests, replies)


def _serve(requests: int, replies: int) -> None:
    """Compile, run, then one call a request. Whatever the program raises is an answer, an exit included."""
    program: dict[str, Any] = {"__name__": "answer", "__builtins__": __builtins__}
    compiled: Any = None
    with open(requests, "rb") as stream:
        for line in stream:
            request = json.loads(line)
            try:
                if request["do"] == "compile":
                    compiled = compile(request["code"], "<answer>", "exec", dont_inherit=True)
                    reply: dict[str, Any] = {"value": None}
                elif request["do"] == "run":
                    exec(compiled, program)  # noqa: S102 - the purpose of this process
                    reply = {"value": callable(program.get(request["entry"]))}
                else:
                    reply = {"value": _plain(program[request["entry"]](*request["args"]), DEEPEST, [MOST_NODES])}
            except BaseException as error:  # noqa: BLE001 - `sys.exit` too: the program does not decide when we end
                reply = {"failed": type(error).__name__, "line": getattr(error, "lineno", None)}
            text = json.dumps({**reply, "nonce": request["nonce"]}, allow_nan=False)
            _write(replies, text.encode() + b"\n")


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    """A copy made of exact builtin types; a tuple becomes a list. Raises `NotPlainError` for everything else."""
    left[0] -= 1
    if depth == 0 or left[0] < 0:
        raise NotPlainError
    kind = type(value)
    if kind is list or kind is tuple:
        return [_plain(item, depth - 1, left) for item in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: _plain(item, depth - 1, left) for key, item in value.items()}
    if value is None or kind is bool or kind is int or kind is str:
        return value
    if kind is float and value - value == 0.0:  # finite
        return value
    raise NotPlainError


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _limit(seconds: int, memory_bytes: int) -> None:
    """Limits that the program cannot raise: it runs without privileges."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: 1 << 20,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 1,  # this process is the one; the user's others count where there is no user namespace
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


def _isolate(folder: str, uid: int, requests: int, replies: int) -> None:
    """Returns in a new process that is alone: no network, no other process, no file but Python's own, read-only."""
    libc = ctypes.CDLL(None, use_errno=True)
    own_uid, own_gid = os.geteuid(), os.getegid()
    privileged = own_uid == 0 and libc.unshare(SPACES) == 0
    if not privileged:
        _call(libc.unshare, NEW_USER | SPACES)
        _put("/proc/self/setgroups", "deny")
        _put("/proc/self/uid_map", f"{own_uid} {own_uid} 1")
        _put("/proc/self/gid_map", f"{own_gid} {own_gid} 1")
    child = os.fork()
    if child:
        os.write(replies, json.dumps({"program": child}).encode() + b"\n")
        os.close(replies)  # so that the end of the program is the end of its replies
        _guard(child, requests)
    os.setsid()
    _new_root(libc, folder, uid if privileged else own_uid)
    if privileged:
        _become(uid)
    _call(libc.capset, ctypes.byref((ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)), (ctypes.c_uint32 * 6)())
    _call(libc.prctl, NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    _call(libc.prctl, PDEATHSIG, *map(ctypes.c_ulong, (signal.SIGKILL, 0, 0, 0)))


def _guard(child: int, requests: int) -> NoReturn:
    """Wait until the program ends, or until the grader hangs up (or dies): then end the program. Ends as it ended.

    The program is the first process of its own process namespace: with it dies everything that it started.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    poll = select.poll()
    poll.register(os.pidfd_open(child), select.POLLIN)
    poll.register(requests, 0)  # a hang-up is always reported
    poll.poll()
    os.kill(child, signal.SIGKILL)  # not yet waited for, so the number is still its own
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code if code > 0 else 0)


def _new_root(libc: ctypes.CDLL, folder: str, uid: int) -> None:
    """A root of 4 MiB in memory that holds Python's libraries, read-only, and an empty working folder."""
    _mount(libc, "none", "/", "", REC | PRIVATE)
    _mount(libc, "tmpfs", folder, "tmpfs", NOSUID | NODEV, "size=4m,nr_inodes=1024,mode=755")
    for path in _libraries():
        target = folder + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(libc, path, target, "", BIND | REC)
        attributes = (ctypes.c_uint64 * 4)(RDONLY | NOSUID | NODEV, 0, 0, 0)  # set, clear, propagation, user namespace
        _call(libc.syscall, *map(ctypes.c_long, (MOUNT_SETATTR, AT_FDCWD)), target.encode(),
              ctypes.c_long(AT_RECURSIVE), ctypes.byref(attributes), ctypes.c_long(ctypes.sizeof(attributes)))  # fmt: skip
    os.makedirs(folder + CWD, mode=0o700)
    os.chown(folder + CWD, uid, -1)
    os.chdir(folder)
    _call(libc.pivot_root, b".", b".")
    _call(libc.umount2, b".", DETACH)
    os.chdir(CWD)


def _libraries() -> list[str]:
    """Absolute paths that importing the standard library needs, none inside another."""
    python = [os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib"), *sys.path]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"]
    kept: list[str] = []
    for path in sorted({p for q in (*python, *system) for p in (q, os.path.realpath(q)) if os.path.exists(p)}):
        if not any(path == other or path.startswith(other + "/") for other in kept):
            kept.append(path)
    return kept


def _become(uid: int) -> None:
    """Stop being root, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _mount(libc: ctypes.CDLL, source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call(libc.mount, source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def _call(function: Callable[..., int], *arguments: Any) -> None:
    if function(*arguments) < 0:
        number = ctypes.get_errno()
        name = getattr(function, "__name__", "system call")
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _put(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)


if __name__ == "__main__":
    main()
