"""
report.py - what tools/bench prints and draws of its rows: a table, a comparison of two runs, and a
plot (SVG) for each group of cases.
"""

import os
from html import escape

ROW_HEIGHT = 22
LEFT, WIDTH, RIGHT = 360, 460, 130
COLOURS = {"subject": "#2b6cb0", "peer": "#b7b7b7", "target": "#c53030", "reference": "#2d3748"}


def amount(value, unit):
    if unit == "B/s":
        return "%.0f MB/s" % (value / 1e6)
    if unit == "op/s":
        return "%.0f op/s" % value
    if unit == "s":
        return "%.2f ms" % (value * 1e3)
    if unit == "B":
        return "%.1f MiB" % (value / 2**20) if value >= 1 << 20 else "%.0f B" % value
    return "%g %s" % (value, unit)


def verdict(row):
    if row["target"] is None:
        return ""
    ratio = row["ratio"]["median"]
    reached = ratio >= row["target"] if row["better"] == "more" else ratio <= row["target"]
    return "reached" if reached else "missed"


def target_text(row):
    if row["target"] is None:
        return "-"
    return "%s %.2f" % (">=" if row["better"] == "more" else "<=", row["target"])


def cpu_text(side):
    return " ".join("%s %.2f" % (name, used) for name, used in sorted(side["cpu"].items()))


def line(row):
    return "%-46s %14s %14s  %5.2f (%.2f-%.2f)  %-7s %s" % (
        row["title"][:46], amount(row["reference"]["median"], row["unit"]),
        amount(row["subject"]["median"], row["unit"]), row["ratio"]["median"],
        row["ratio"]["low"], row["ratio"]["high"], target_text(row), verdict(row))


def head():
    return "%-46s %14s %14s  %-17s  %-7s" % ("case", "reference", "leasehold", "ratio (spread)",
                                             "target")


def more(row):
    """The lines below a row."""
    for name, peer in sorted(row["peers"].items()):
        yield "    %-42s %14s %14s  %5.2f" % (name, "", amount(peer["median"], row["unit"]),
                                              peer["ratio"])
    sides = [(row[side]["name"], cpu_text(row[side])) for side in ("reference", "subject")]
    if any(text for _, text in sides):
        yield "    processor s/%s: " % ("GB" if row["unit"] == "B/s" else "1000 operations") + \
            "; ".join("%s: %s" % side for side in sides if side[1])
    if row["note"]:
        yield "    " + row["note"]
    for name, entries in sorted((row.get("profile") or {}).items()):
        yield "    profile of the %s: %s" % (name, ", ".join(
            "%s %.0f %%" % (symbol, percent) for percent, symbol in entries))


def print_row(row):
    print(line(row))
    for text in more(row):
        print(text)


def print_end(result):
    """What was not measured, and how many targets were reached."""
    for what in ("skipped", "failed"):
        for left in result.get(what, []):
            print("%s %s: %s" % (what, left["case"], left["reason"]))
    counted = [verdict(row) for row in result["rows"]]
    if counted.count("reached") + counted.count("missed"):
        print("%d targets reached, %d missed, %d cases failed" % (
            counted.count("reached"), counted.count("missed"), len(result.get("failed", []))))


def print_result(result):
    machine = result["machine"]
    print("%(processor)s, %(cores)d cores, %(memory_mib)d MiB, Linux %(kernel)s, %(file_system)s" %
          machine)
    print("%s, %s, %d rounds; %s\n" % (machine["leasehold"], machine["commit"],
                                       max([row["rounds"] for row in result["rows"]] or [0]),
                                       " ".join(result["command"])))
    print(head())
    for row in result["rows"]:
        print_row(row)
    print_end(result)


PEERS = ("rclone", "sshfs")


def print_markdown(result):
    """For README: a table, with a column for each of the peers that were measured."""
    machine = result["machine"]
    peers = [p for p in PEERS if any(p in row["peers"] for row in result["rows"])]
    print("%s, %d cores, %d GiB, Linux %s, %s; medians of %d rounds, %s.\n" % (
        machine["processor"], machine["cores"], round(machine["memory_mib"] / 1024),
        machine["kernel"], machine["file_system"],
        max([row["rounds"] for row in result["rows"]] or [0]), result["started"][:10]))
    columns = ["case", "reference", "Leasehold", "ratio (spread)", "target"] + peers
    print("| %s |" % " | ".join(columns))
    print("|" + "---|" * len(columns))
    for row in result["rows"]:
        ratio = row["ratio"]
        target = {"reached": "%s", "missed": "**%s**", "": "%s"}[verdict(row)] % target_text(row)
        cells = [row["title"], "%s: %s" % (row["reference"]["name"], amount(
            row["reference"]["median"], row["unit"])), amount(row["subject"]["median"], row["unit"]),
            "%.2f (%.2f-%.2f)" % (ratio["median"], ratio["low"], ratio["high"]), target]
        cells += ["%.2f" % row["peers"][p]["ratio"] if p in row["peers"] else "" for p in peers]
        print("| %s |" % " | ".join(cells))
    print("\nA target in bold was missed." + (
        " Peers: ratios to the same reference; they keep no coherence." if peers else ""))
    for what in ("skipped", "failed"):
        for left in result.get(what, []):
            print("%s %s: %s" % (what.capitalize(), left["case"], left["reason"].split("\n")[0]))


def compare(a, b):
    """Each row of both, by case and title. 'differs' when no round of one is like any of the other."""
    old = {(row["case"], row["title"]): row for row in a["rows"]}
    print("%-46s %18s %18s  %6s" % ("case", "A", "B", "B/A"))
    for row in b["rows"]:
        before = old.pop((row["case"], row["title"]), None)
        if not before:
            print("%-46s %18s %18s" % (row["title"][:46], "-", "%.2f" % row["ratio"]["median"]))
            continue
        x, y = before["ratio"], row["ratio"]
        apart = x["high"] < y["low"] or y["high"] < x["low"]
        print("%-46s %18s %18s  %6.2f %s" % (
            row["title"][:46], "%.2f (%.2f-%.2f)" % (x["median"], x["low"], x["high"]),
            "%.2f (%.2f-%.2f)" % (y["median"], y["low"], y["high"]),
            y["median"] / x["median"], "differs" if apart else ""))
    for row in old.values():
        print("%-46s %18s %18s" % (row["title"][:46], "%.2f" % row["ratio"]["median"], "-"))


# ---- plots ----

def text(x, y, what, anchor="start", size=12, colour="#1a202c"):
    return '<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" fill="%s">%s</text>' % (
        x, y, size, anchor, colour, escape(what))


def bar(x, y, width, height, colour):
    return '<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>' % (
        x, y, max(width, 1), height, colour)


def stroke(x1, y1, x2, y2, colour, width=1, dash=""):
    return '<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%g"%s/>' % (
        x1, y1, x2, y2, colour, width, ' stroke-dasharray="%s"' % dash if dash else "")


def plot(group, rows, where):
    """Ratios to the reference as bars, with the spread of the rounds; the target is a red mark."""
    bars = []  # (label, ratio, low, high, colour, target)
    for row in rows:
        label = row["title"] + (" (less is better)" if row["better"] == "less" else "")
        ratio = row["ratio"]
        bars.append((label, ratio["median"], ratio["low"], ratio["high"], COLOURS["subject"],
                     row["target"]))
        for name, peer in sorted(row["peers"].items()):
            bars.append(("    " + name, peer["ratio"], None, None, COLOURS["peer"], None))
    top = max([1.2] + [b[3] or b[1] for b in bars] + [b[5] or 0 for b in bars])
    top = min(top, 5.0)
    scale = WIDTH / top
    height = 60 + ROW_HEIGHT * len(bars) + 40
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
           'font-family="sans-serif">' % (LEFT + WIDTH + RIGHT, height),
           bar(0, 0, LEFT + WIDTH + RIGHT, height, "#ffffff"),
           text(16, 26, "Leasehold: " + group, size=16),
           text(16, 44, where, size=11, colour="#4a5568")]
    y = 60
    bottom = y + ROW_HEIGHT * len(bars)
    step = 0.2 if top <= 2 else 0.5
    for i in range(int(top / step) + 1):
        x = LEFT + i * step * scale
        out.append(stroke(x, y, x, bottom, "#e2e8f0"))
        out.append(text(x, bottom + 16, "%.1f" % (i * step), "middle", 11))
    out.append(stroke(LEFT + scale, y, LEFT + scale, bottom, COLOURS["reference"], 1.5))
    for label, ratio, low, high, colour, target in bars:
        out.append(text(LEFT - 8, y + 15, label, "end", 12))
        shown = min(ratio, top)
        out.append(bar(LEFT, y + 4, shown * scale, ROW_HEIGHT - 8, colour))
        if low is not None:
            middle = y + ROW_HEIGHT / 2
            out.append(stroke(LEFT + min(low, top) * scale, middle, LEFT + min(high, top) * scale,
                              middle, "#1a202c", 1.5))
        if target is not None:
            x = LEFT + target * scale
            out.append(stroke(x, y + 1, x, y + ROW_HEIGHT - 1, COLOURS["target"], 2.5))
        end = max(shown, min(high, top) if high else 0, target or 0)
        out.append(text(LEFT + end * scale + 6, y + 15, "%.2f" % ratio, size=11))
        y += ROW_HEIGHT
    out.append(text(LEFT, bottom + 34, "ratio to the reference (1.0); black: lowest to highest "
                    "round; red: target", size=11, colour="#4a5568"))
    out.append("</svg>\n")
    return "\n".join(out)


def write_plots(result, directory):
    """GROUP.svg for each group; their paths."""
    machine = result["machine"]
    where = "%s, %d cores, Linux %s, %s" % (machine["processor"], machine["cores"],
                                            machine["kernel"], result["started"])
    groups = {}
    for row in result["rows"]:
        groups.setdefault(row["group"], []).append(row)
    os.makedirs(directory, exist_ok=True)
    paths = []
    for group, rows in groups.items():
        paths.append(os.path.join(directory, group + ".svg"))
        with open(paths[-1], "w") as f:
            f.write(plot(group, rows, where))
    return paths
