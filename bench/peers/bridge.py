"""The bridge between hosts, compared with Gloo and with what iperf3 moves over the same kind of link."""
import json

from systems import PROGRAMS, System, find_package, how_to_install

SIZES = "4K,1M,100M"
ANNULUS, GLOO = "Annulus, bridge", "Gloo, torch"


def bridge_systems(options, sizes):
    """Systems found, and (name, how to install) of those missing. Both make their own hosts: two namespaces."""
    found = [System(ANNULUS, [options.annulus, "bench", "bridge", "--nodes", 2, "--bytes", ",".join(sizes), "--json"])]
    python, version = find_package(options.peers, "torch")
    if python is None:
        return found, [("Gloo between hosts", how_to_install(options.peers, "torch", "torch==2.13.0 numpy"))]
    return [*found, System(f"{GLOO} {version}", [python, PROGRAMS / "gloo_hosts.py", *sizes.values()],
                           {"OMP_NUM_THREADS": "1"})], []


def compare_bridge(options, systems, sizes, make_table, measure):
    """Measures and returns what prints the table: times, rates, and ratios."""
    names = {size: name for name, size in sizes.items()}
    times, rates = make_table(sizes), make_table(sizes)

    def take(system, record):
        column = names[record["bytes"]]
        times.add("time", system.name, column, record["median_us"])
        rates.add("rate", system.name, column, record["gbps"])
        if "iperf3_gbps" in record:
            rates.add("rate", "iperf3, one way", column, record["iperf3_gbps"])

    measure(systems, options, take)

    def figure(table, start, column):
        best = table.best(column, min, lambda group, label: label.startswith(start))
        return best and best[0]

    ratios = {"Gloo's time / Annulus'": {}, "Annulus' rate / iperf3's": {}}
    for column in sizes:
        own, gloo = figure(times, ANNULUS, column), figure(times, GLOO, column)
        rate, link = figure(rates, ANNULUS, column), figure(rates, "iperf3", column)
        if own and gloo:
            ratios["Gloo's time / Annulus'"][column] = gloo / own
        if rate and link:
            ratios["Annulus' rate / iperf3's"][column] = rate / link

    def show():
        if options.json:
            times.print_json("bridge_us")
            rates.print_json("bridge_gbps")
            for what, row in ratios.items():
                for column, ratio in row.items():
                    print(json.dumps({"table": "bridge_ratio", "what": what, "column": column, "ratio": ratio}))
            return
        print("\nAll-reduce of fp32 between two hosts of one rank each, network namespaces joined by veth: median over "
              "rounds of each round's median; below it min..max over rounds\n")
        times.line("microseconds", sizes)
        times.show("time")
        times.show_ratios(*list(ratios.items())[0])
        print()
        rates.line("GB/s of gradient, or of iperf3", sizes)
        rates.show("rate")
        rates.show_ratios(*list(ratios.items())[1])
        if not ratios["Annulus' rate / iperf3's"]:
            print("  no iperf3 to compare with (Debian: iperf3)")
    return show
