#include <algorithm>

#include "launcher/options.h"
#include "telemetry/nearest_name.h"

namespace annulus {
namespace {

struct Action {
  const char* name;
  const char* usage;
  size_t fewest, most;  // paths
};
constexpr Action kActions[] = {{"show", "show FILE|DIRECTORY [--json]", 1, 1},
                               {"verify", "verify FILE|DIRECTORY ...", 1, 1'000'000},
                               {"export", "export FILE|DIRECTORY OUT", 2, 2}};

const Action& action_named(const std::string& word) {
  std::vector<std::string> names;
  for (const Action& action : kActions) {
    if (word == action.name) return action;
    names.emplace_back(action.name);
  }
  const std::string near = nearest_name(word, names);
  throw UserError::format(
      "checkpoint {}: unknown action; {}", word,
      near.empty() ? fmt::format("there are {}", fmt::join(names, ", ")) : "did you mean " + near + "?");
}

}  // namespace

CheckpointOptions parse_checkpoint(int argc, const char* const* argv) {
  CheckpointOptions options;
  OptionTable table(
      "annulus checkpoint ACTION",
      "Looks at checkpoints without a run. show FILE prints what one holds. verify FILE... "
      "reads them whole and says which are intact; exit code 1 where one is not. export FILE OUT "
      "writes the model alone to a new safetensors file, for PyTorch's load_state_dict. A "
      "directory in place of FILE means the latest intact checkpoint in it, for verify all of "
      "them.");
  table.section("Output of show");
  table.bare_switch("json", options.json, "one JSON object in place of text");

  // Paths and flags may be mixed; the table reads flags alone.
  std::vector<std::string> words;
  std::vector<const char*> flags = {argc > 0 ? argv[0] : "checkpoint"};
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]).starts_with("-")) {
      flags.push_back(argv[i]);
    } else {
      words.emplace_back(argv[i]);
    }
  }
  table.parse(static_cast<int>(flags.size()), flags.data());
  if (words.empty()) throw UserError("checkpoint: no action; give annulus checkpoint show, verify or export");

  const Action& action = action_named(words[0]);
  options.action = action.name;
  options.paths.assign(words.begin() + 1, words.end());
  if (options.paths.size() < action.fewest || options.paths.size() > action.most) {
    throw UserError::format("checkpoint {}: {} path{} given; give annulus checkpoint {}", action.name,
                            options.paths.size(), options.paths.size() == 1 ? "" : "s", action.usage);
  }
  if (options.json && options.action != "show") {
    throw UserError::format("--json: checkpoint {} has no such output; leave it out, or take checkpoint show",
                            action.name);
  }
  return options;
}

}  // namespace annulus
