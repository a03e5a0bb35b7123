#!/usr/bin/env python3
"""The command line with real daemons: errors that say what next, status, stat, mount(8), fstab."""

import errno
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import BINARY, eventually, expect, pattern, read_file, run, write_file


def fails(what, *command, words=(), meanwhile=None):
    """
    Exit status not zero, one line on standard error, those words in it; meanwhile(process) is done
    while it runs.
    """
    process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if meanwhile:
        meanwhile(process)
    _, errors = process.communicate(timeout=leasehold.COMMAND_TIMEOUT_S)
    expect(process.returncode != 0, True, what + ": exit status not zero")
    # What an origin logs (event=...) is beside the point.
    lines = [x for x in errors.strip().splitlines() if " event=" not in x]
    expect(len(lines), 1, "%s: lines on standard error: %s" % (what, errors))
    for word in words:
        expect(word.lower() in lines[0].lower(), True, "%s: '%s' in: %s" % (what, word, lines[0]))
    return lines[0]


def mount_command(host, url=None, token=None, cache=None, keys=None, mountpoint=None):
    command = [BINARY, "mount", url or host.url(), mountpoint or host.path, "--cache",
               cache or host.cache, "--cache-size", "64M", "--keys", keys or host.keys,
               "--host-name", host.name]
    return command + (["--join", token] if token else [])


def nothing_is_mounted(host):
    expect(leasehold.is_mounted(host.path), False, "still mounted")
    expect(os.listdir(host.path), [])


def test_a_mount_goes_to_the_background_once_it_answers(w):
    h = w.host("a", start=False)
    write_file(h.origin.path_of("f"), b"1")
    run(*mount_command(h, token=h.origin.token))
    expect(read_file(h / "f"), b"1", "at once")
    run("umount", h.path)
    nothing_is_mounted(h)
    h.wait_until_cache_is_free()
    # Keys are kept: no token the second time.
    run(*mount_command(h))
    expect(read_file(h / "f"), b"1")
    run("umount", h.path)


def test_errors_say_what_and_leave_nothing_mounted(w):
    h = w.host("a", start=False)
    w.allow_log("")
    token = h.origin.token
    wrong = token[:-6] + ("aaaaaa" if not token.endswith("aaaaaa") else "bbbbbb")
    fails("no token the first time", *mount_command(h), words=["join"])
    fails("a wrong token", *mount_command(h, token=wrong), words=["token"])
    fails("an unknown export", *mount_command(h, token=token, url=h.url()[:-7] + "nonesuch"),
          words=["nonesuch"])
    port = leasehold.free_port()
    fails("no origin", *mount_command(h, url="https://127.0.0.1:%d/default" % port), words=["127"])
    write_file(w.path + "/file", b"")
    fails("a cache that cannot be", *mount_command(h, token=token, cache=w.path + "/file/x"),
          words=[w.path + "/file"])
    fails("no mount point", *mount_command(h, token=token, mountpoint=w.path + "/absent"),
          words=["absent"])
    fails("not a URL", *mount_command(h, url="127.0.0.1", token=token), words=["https://"])
    nothing_is_mounted(h)


# A new mount namespace has copies of all mounts: those of other tests would outlive their umount.
FORGET = "umount -a -i -l -t fuse.leasehold\n"


def run_without(w, what, *command):
    """In a world that lacks something."""
    script = FORGET + "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec \"$@\""
    if what == "device":
        return ["unshare", "-m", "sh", "-c", script, "sh"] + list(command)
    return ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"] + list(command)


def accept_all(listener):
    """The connections that wait; after that accept() waits for the next one."""
    connections = []
    listener.setblocking(False)
    try:
        while True:
            connections.append(listener.accept())
    except BlockingIOError:
        listener.settimeout(leasehold.COMMAND_TIMEOUT_S)
    return connections


def test_errors_of_the_machine(w):
    h = w.host("a")
    write_file(h / "f", b"1")
    w.allow_log("")
    fails("mounted already", *mount_command(h), words=[h.path, "umount"])
    expect(read_file(h / "f"), b"1", "the mount that was there")
    h.unmount()
    fails("no device", *run_without(w, "device", *mount_command(h)), words=["/dev/fuse", "module"])
    fails("no right to mount", *run_without(w, "right", *mount_command(h)),
          words=[h.path, "CAP_SYS_ADMIN"])
    write_file(w.path + "/file", b"")
    fails("a file as mount point", *mount_command(h, mountpoint=w.path + "/file"),
          words=["not a directory"])
    fails("a log that cannot be", *mount_command(h), "--log", w.path + "/file/log",
          words=[w.path + "/file/log"])
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        port = silent.getsockname()[1]
        shutil.copytree("%s/127.0.0.1:%d" % (h.keys, h.origin.port),
                        "%s/127.0.0.1:%d" % (h.keys, port))
        url = "https://127.0.0.1:%d/default" % port
        fails("an origin that says nothing", *mount_command(h, url=url), words=[str(port)])
        # Whoever changes his mind meanwhile gets what he wants.
        connections = accept_all(silent)

        def interrupt(process):
            connections.append(silent.accept())
            process.send_signal(signal.SIGINT)
        fails("a signal", *mount_command(h, url=url), "-f", words=["before it was mounted"],
              meanwhile=interrupt)
    h.origin.stop()
    shutil.rmtree(h.origin.state)
    h.origin.start()
    fails("an origin made anew", *mount_command(h), words=["--join"])
    nothing_is_mounted(h)
    run(*mount_command(h, token=h.origin.token))
    expect(read_file(h / "f"), b"1", "joined again")
    run("umount", h.path)
    nothing_is_mounted(h)


def test_the_origin_says_what_is_wrong(w):
    o = w.origin()
    w.allow_log("")
    fails("no such directory", BINARY, "origin", w.path + "/absent", "--state", w.path + "/s1",
          "--listen", "127.0.0.1:0", words=["absent"])
    fails("the port is taken", BINARY, "origin", o.export, "--state", w.path + "/s2",
          "--listen", "127.0.0.1:%d" % o.port, words=[str(o.port)])
    fails("the state is in use", BINARY, "origin", o.export, "--state", o.state,
          "--listen", "127.0.0.1:%d" % leasehold.free_port())


def test_exports_have_names_and_rights(w):
    for name in ("one", "two"):
        os.mkdir(os.path.join(w.path, name))
        write_file(os.path.join(w.path, name, "is"), name.encode())
    o = w.origin("--export", "one=%s/one" % w.path, "--export", "two=%s/two,ro" % w.path)
    paths = {}
    for name in ("one", "two"):
        h = w.host("host-" + name, start=False)
        h.url = lambda name=name: "https://127.0.0.1:%d/%s" % (o.port, name)
        paths[name] = h.start().path
    expect(read_file(paths["one"] + "/is"), b"one")
    expect(read_file(paths["two"] + "/is"), b"two")
    write_file(paths["one"] + "/new", b"1")
    leasehold.expect_errno(30, write_file, paths["two"] + "/new", b"1")  # EROFS
    leasehold.expect_errno(30, os.unlink, paths["two"] + "/is")


def test_status_and_stat(w):
    h = w.host("a")
    write_file(h / "f", pattern(10000))
    read_file(h / "f")
    os.mkdir(h / "d")
    status = json.loads(run(BINARY, "status", h.path, "--json").stdout)
    for name in ("version", "url", "mountpoint", "state", "cache"):
        expect(name in status, True, name)
    expect(status["state"], "connected")
    expect(status["mountpoint"], h.path)
    expect(json.loads(run(BINARY, "status", h / "d", "--json").stdout)["url"], status["url"])
    text = run(BINARY, "status", h.path).stdout
    expect("connected" in text and h.path in text, True, text)
    facts = json.loads(run(BINARY, "stat", h / "f", "--json").stdout)
    expect((facts["type"], facts["size"]), ("file", 10000))
    leasehold.eventually(lambda: h.xattr("cached", "f") == "10000", "it is cached")
    several = json.loads(run(BINARY, "stat", h / "f", h / "d", "--json").stdout)
    expect([x["type"] for x in several], ["file", "directory"])
    text = run(BINARY, "stat", h / "f").stdout
    expect(["cached:", "10000"] in [line.split() for line in text.splitlines()], True, text)
    fails("status elsewhere", BINARY, "status", "/", words=["not on a leasehold mount"])
    fails("stat elsewhere", BINARY, "stat", "/etc", words=["not on a leasehold mount"])
    fails("stat of nothing", BINARY, "stat", h / "absent", words=["no such file"])


def mount_flags(path):
    with open("/proc/self/mountinfo") as f:
        return next(x.split(" ")[5] for x in f if x.split(" ")[4] == path).split(",")


def effective_user(program):
    """As whom `program`, a copy of id(1), runs for user 1000; None when it may not run."""
    try:
        return run(program, "-u", preexec_fn=lambda: os.setuid(1000)).stdout.strip()
    except PermissionError:
        return None


def test_flags_of_mount_8_are_the_kernels(w):
    os.chmod(w.path, 0o755)
    hosts = {options: w.host("h%d" % n, "-o", options) for n, options in enumerate(
        ("rw,noatime", "nosuid,nodev", "user,exec", "noexec", "ro"))}
    shutil.copy("/usr/bin/id", hosts["noexec"] / "id")
    os.chown(hosts["noexec"] / "id", 7, 7)
    os.chmod(hosts["noexec"] / "id", 0o4755)
    os.mknod(hosts["noexec"] / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.chmod(hosts["noexec"] / "null", 0o666)
    for options, flags, user, opens in (
            ("rw,noatime", ["rw"], "7", True),
            ("nosuid,nodev", ["rw", "nosuid", "nodev"], "1000", False),
            ("user,exec", ["rw", "nosuid", "nodev"], "1000", False),
            ("noexec", ["rw", "noexec"], None, True),
            ("ro", ["ro"], "7", True)):
        h = hosts[options]
        expect(sorted(mount_flags(h.path)), sorted(flags + ["noatime"]), options)
        expect(effective_user(h / "id"), user, options)
        if opens:
            os.close(os.open(h / "null", os.O_RDONLY))
        else:
            leasehold.expect_errno(errno.EACCES, os.open, h / "null", os.O_RDONLY)
    leasehold.expect_errno(errno.EROFS, write_file, hosts["ro"] / "f", b"")


def in_a_world_with_helper(w, script):
    """
    Runs a script where mount(8) finds the helper: in a mount namespace of its own, with a layer
    over /usr/sbin, so that the machine's is not touched.
    """
    layer = w.path + "/layer"
    os.makedirs(layer, exist_ok=True)
    if not os.path.lexists(layer + "/mount.fuse.leasehold"):
        os.symlink(os.path.realpath(BINARY), layer + "/mount.fuse.leasehold")
    overlay = FORGET + "mount -t overlay o -o lowerdir=%s:/usr/sbin /usr/sbin\n" % layer
    probe = run("unshare", "-m", "sh", "-c", overlay, check=False)
    if probe.returncode != 0:
        raise leasehold.Skip("no overlay over /usr/sbin here: " + probe.stderr.strip())
    return run("unshare", "-m", "sh", "-c", overlay + "set -e\n" + script)


def test_mount_8_and_fstab(w):
    h = w.host("a")
    write_file(h / "f", b"through the helper")
    h.unmount()
    options = "rw,noatime,nodev,_netdev,x-systemd.automount,cache=%s,cache-size=64M,keys=%s" % (
        h.cache, h.keys)
    look = "\ncat %s\ngrep -c ' %s [^ ]*nodev' /proc/self/mountinfo\numount %s" % (
        h / "f", h.path, h.path)
    result = in_a_world_with_helper(w, "mount -t fuse.leasehold -o '%s' %s %s%s" % (
        options, h.url(), h.path, look))
    expect(result.stdout, "through the helper1\n")
    h.wait_until_cache_is_free()
    with open(w.path + "/fstab", "w") as f:
        f.write("%s %s fuse.leasehold %s 0 0\n" % (h.url(), h.path, options))
    result = in_a_world_with_helper(w, "mount -T %s/fstab %s%s" % (w.path, h.path, look))
    expect(result.stdout, "through the helper1\n")


def key_files(w, host):
    """Certificate authority, certificate and key, by links without a colon in their names: curl
    would take that for the begin of a passphrase."""
    keys = os.path.join(host.keys, "127.0.0.1:%d" % host.origin.port)
    paths = []
    for name in ("ca.pem", "host.pem", "host.key"):
        paths.append(os.path.join(w.path, name))
        os.symlink(os.path.join(keys, name), paths[-1])
    return paths


def test_curl_gets_the_status_and_a_file(w):
    h = w.host("a")
    data = pattern(100000)
    write_file(h / "f", data)
    authority, certificate, key = key_files(w, h)
    curl = ["curl", "-sSf", "--http2", "--cacert", authority, "--cert", certificate, "--key", key]
    base = "https://127.0.0.1:%d" % h.origin.port
    json.loads(run(*curl, base + "/status").stdout)
    run(*curl, "-o", w.path + "/got", base + "/files/default/f")
    expect(read_file(w.path + "/got"), data)
    run(*curl, "-r", "100-199", "-o", w.path + "/got", base + "/files/default/f")
    expect(read_file(w.path + "/got"), data[100:200], "a range")
    anonymous = run("curl", "-sS", "--cacert", authority, base + "/status", check=False)
    expect(anonymous.returncode != 0 or "session" not in anonymous.stdout, True,
           "without a certificate: " + anonymous.stdout)


def test_nghttp_gets_the_status_and_a_file(w):
    if not shutil.which("nghttp"):
        raise leasehold.Skip("no nghttp here")
    h = w.host("a")
    data = pattern(100000)
    write_file(h / "f", data)
    _, certificate, key = key_files(w, h)
    base = "https://127.0.0.1:%d" % h.origin.port
    nghttp = ["nghttp", "--cert", certificate, "--key", key]
    status = json.loads(run(*nghttp, base + "/status").stdout)
    expect(isinstance(status, dict) and len(status) > 0, True, repr(status))
    run("sh", "-c", '"$@" > %s/got' % w.path, "sh", *nghttp, base + "/files/default/f")
    expect(read_file(w.path + "/got"), data)
    run("sh", "-c", '"$@" > %s/got' % w.path, "sh", *nghttp, "-H", "range: bytes=100-199",
        base + "/files/default/f")
    expect(read_file(w.path + "/got"), data[100:200], "a range")
    # Several over one connection.
    both = run(*nghttp, "-s", "-n", base + "/status", base + "/files/default/f").stdout
    expect(both.count(" 200 "), 2, both)
    absent = run(*nghttp, "-s", "-n", base + "/files/default/absent").stdout
    expect(" 404 " in absent, True, absent)


def test_what_a_job_did_is_recorded_and_replayed(w):
    o = w.origin()
    for i in range(20):
        write_file(o.path_of("file %d" % i), pattern(1000))
    a = w.host("a")
    out, said = os.path.join(w.path, "trace"), os.path.join(w.path, "said")
    with open(said, "wb") as errors:
        recorder = subprocess.Popen([BINARY, "trace", "record", "-o", out, a.path], stderr=errors)
    try:
        eventually(lambda: b"recording" in read_file(said), "it records")
        for i in range(20):
            read_file(a / ("file %d" % i))

        def recorded():  # accesses are told behind the answers
            text = read_file(out)
            return all(b' "file %d"\n' % i in text for i in range(20)) and \
                text.count(b" read ") >= 20
        eventually(recorded, "all of it is recorded")
    finally:
        recorder.send_signal(signal.SIGINT)
        status = recorder.wait(leasehold.COMMAND_TIMEOUT_S)
    expect(status, 0, "status of the recorder")
    shown = run(BINARY, "trace", "replay", out).stdout
    expect("accesses" in shown and "stalled" in shown, True, shown)
    fails("a line that is none", BINARY, "trace", "replay", said, words=("said:1:", "expected"))
    ask = "import os, sys\nfd = os.open(sys.argv[1], os.O_RDONLY)\nos.setuid(65534)\n" \
        "try:\n  os.getxattr(fd, 'system.leasehold.trace')\nexcept OSError as e:\n  print(e.errno)"
    told = run(sys.executable, "-c", ask, a.path).stdout
    expect(int(told), errno.EPERM, "somebody else asks")


def test_without_prefetch_nothing_is_recorded(w):
    a = w.host("a", "--prefetch", "off")
    fails("no prefetch", BINARY, "trace", "record", a.path, words=("--prefetch=off",))
    fails("no mount", BINARY, "trace", "record", w.path, words=("not on a Leasehold mount",))


leasehold.main(globals())
