#include <algorithm>

#include "launcher/option_parts.h"
#include "launcher/options.h"
#include "telemetry/nearest_name.h"

namespace annulus {

CheckOptions parse_check(int argc, const char* const* argv) {
  const std::vector<std::string> algorithms = {"direct", "ring", "hierarchical"};
  CheckOptions options;
  OptionTable table(
      "annulus check direct|ring|hierarchical",
      "Trains a synthetic objective whose optimum is known through the exchange alone, with real "
      "worker processes, and compares the weights with those of a serial run, bit by bit. Reads "
      "no data.");
  table.section("What is exchanged");
  table.whole("dim", "D", options.dim, 1, kMostImages, "parameters");
  table.whole("steps", "K", options.steps, 1, kMostImages, "number of steps");
  table.section("Among whom");
  table.whole_or_auto("workers", "N|auto", options.workers, kMostWorkers,
                      "worker processes; auto: one per usable physical core");
  table.whole_or_auto("shards", "S|auto", options.shards, kMostShards,
                      "parts in which gradients are summed; auto: as many as workers");
  table.whole_or_auto("domains", "N|auto", options.domains, kMostWorkers,
                      "pretended domains of neighbouring workers, for hierarchical; auto: the machine's");
  table.choice("transport", options.transport, {"memory", "tcp"},
               "what carries gradients: the segment, or TCP over loopback, each worker with weights of its "
               "own and one shard");
  table.section("Output");
  table.bare_switch("json", options.json, "one JSON object in place of text");

  const std::string word = argc > 1 ? argv[1] : "";
  if (word.empty() || word.starts_with("-")) {
    table.parse(argc, argv);  // --help
    throw UserError("check: no algorithm; give annulus check direct, ring or hierarchical");
  }
  if (std::find(algorithms.begin(), algorithms.end(), word) == algorithms.end()) {
    const std::string near = nearest_name(word, algorithms);
    throw UserError::format("check {}: unknown algorithm; {}", word,
                            near.empty() ? fmt::format("there are {}", fmt::join(algorithms, ", "))
                                         : "did you mean " + near + "?");
  }
  table.parse(argc - 1, argv + 1);
  options.algorithm = word;
  if (options.domains > 0 && word != "hierarchical") {
    throw UserError::format("--domains {}: {} knows no domains; leave it out, or check hierarchical",
                            options.domains, word);
  }
  return options;
}

}  // namespace annulus
