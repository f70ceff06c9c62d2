#include <algorithm>
#include <charconv>

#include "launcher/option_parts.h"
#include "launcher/options.h"
#include "runtime/models.h"
#include "telemetry/nearest_name.h"

namespace annulus {
namespace {

// "3x32x32".
void add_input(OptionTable& table, std::optional<ImageShape>& target) {
  static constexpr int kLargestSide = 65'536;
  Option option;
  option.name = "input";
  option.value_name = "CxHxW";
  option.help =
      "channels, height and width of the images; left out: what the file says, 3x224x224 with --stem "
      "imagenet, else 3x32x32";
  option.read = [&target](const std::string& text, const std::string& where) {
    int sides[3] = {};
    const char* at = text.data();
    const char* const end = at + text.size();
    for (int i = 0; i < 3; ++i) {
      const auto [stop, error] = std::from_chars(at, end, sides[i]);
      const bool goes_on = i < 2 ? stop < end && *stop == 'x' : stop == end;
      if (error != std::errc() || !goes_on || sides[i] < 1 || sides[i] > kLargestSide) {
        throw UserError::format(
            "{}: not the shape of an image; give channels, height and width like 3x32x32, each "
            "from 1 to {}",
            where, kLargestSide);
      }
      at = stop + 1;
    }
    target = ImageShape{sides[0], sides[1], sides[2]};
  };
  option.write = [] { return std::nullopt; };
  table.add(std::move(option));
}

}  // namespace

void check_model(const std::string& model, const std::string& where) {
  const std::vector<std::string>& names = model_names();
  if (is_network_file(model) || std::find(names.begin(), names.end(), model) != names.end()) return;
  const std::string near = nearest_name(model, names);
  throw UserError::format(
      "{}: neither one of {} nor the path of a YAML file (with a / or ending in .yaml); {}", where,
      fmt::join(names, ", "), near.empty() ? "give one" : "did you mean " + near + "?");
}

void add_model(OptionTable& table, std::string& target) {
  Option option;
  option.name = "model";
  option.value_name = fmt::format("{}|FILE.yaml", fmt::join(model_names(), "|"));
  option.help = "the network, or a file that describes it; annulus model shows both";
  option.read = [&target](const std::string& text, const std::string& where) {
    check_model(text, where);
    target = text;
  };
  option.write = [&target] { return target; };
  table.add(std::move(option));
}

void add_stem(OptionTable& table, const std::string& model, std::string& target) {
  Option& stem = table.choice("stem", target, stem_names(),
                              "what a ResNet begins with: a 3x3 convolution, or a 7x7 one and max pooling");
  stem.write = [&model, &target] { return has_stem(model) ? std::optional(target) : std::nullopt; };
  stem.default_text = target;
}

void settle_stem(const OptionTable& table, const std::string& model, std::string& stem) {
  if (has_stem(model) || table.level("stem") == OptionLevel::builtin) return;
  if (table.level("stem") >= table.level("model")) {
    throw UserError::format(
        "--stem {}: {} has none; leave it out, or give a model that has one, like resnet18", stem, model);
  }
  stem = TrainConfig().stem;
}

ModelOptions parse_model(int argc, const char* const* argv) {
  ModelOptions options;
  std::optional<int64_t> classes;
  OptionTable table(
      "annulus model NETWORK",
      fmt::format(
          "Prints a network (one of {}, or a YAML file's) in the form that --model reads, and a table of its "
          "layers: shapes, parameters, operations, memory.",
          fmt::join(model_names(), ", ")));
  table.section("For which images");
  add_input(table, options.input);
  table.whole("classes", "N", classes, 2, 65'536,
              "classes; left out: what the file says, 1000 with --stem imagenet, else 10");
  table.whole("batch", "N", options.batch, 1, kMostImages,
              "images that operations and memory are counted for");
  table.section("The network");
  add_stem(table, options.model, options.stem);
  table.section("Output");
  table.bare_switch("json", options.json, "one JSON object in place of text");

  const std::string word = argc > 1 ? argv[1] : "";
  if (word.empty() || word.starts_with("-")) {
    table.parse(argc, argv);  // --help
    throw UserError::format("model: no network; give annulus model {}, or a YAML file",
                            fmt::join(model_names(), ", "));
  }
  check_model(word, "model " + word);
  table.parse(argc - 1, argv + 1);
  options.model = word;
  if (classes) options.classes = static_cast<int>(*classes);
  settle_stem(table, options.model, options.stem);
  return options;
}

}  // namespace annulus
