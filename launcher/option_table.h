// OptionTable: the options of one command, each bound to the place its value goes to. One table serves the
// command line, the YAML file, the dump of the resolved values and the help text, so they cannot differ.
// Nothing here knows what the options mean; launcher/options.cpp says that.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "telemetry/error.h"

namespace annulus {

// One option. `name` is the key in the YAML file and, after two dashes, the flag.
struct Option {
  std::string name;
  std::string section;     // heading in the help text
  std::string value_name;  // "N|auto"; empty: a switch that may stand without a value
  std::string help;
  std::string default_text;     // empty: none
  bool in_file = true;          // may be a key of the YAML file
  bool in_dump = true;          // is part of the resolved configuration
  bool is_config_file = false;  // names the YAML file itself

  // Turns text into the value. The message of a failure begins with `where`: "--lr fast" or "run.yaml:3: lr:
  // fast".
  std::function<void(const std::string& text, const std::string& where)> read;
  // The value as text that `read` takes; nothing when it is not set.
  std::function<std::optional<std::string>()> write;
};

// Thrown when the user asks for help: the text goes to stdout, the exit code is 0.
class HelpRequest : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where the value of an option came from; later ones win.
enum class OptionLevel { builtin, file, command_line };

// The bounds of a number. The text of a message and of the remedy is made from them.
struct NumberRange {
  double low = 0;
  bool low_included = true;
  double high = std::numeric_limits<double>::infinity();
  bool high_included = true;
};

class OptionTable {
 public:
  // `command` is what the user types ("annulus train"), `summary` a sentence for the help text.
  OptionTable(std::string command, std::string summary)
      : command_(std::move(command)), summary_(std::move(summary)) {}

  // Starts a section of the help text.
  void section(std::string heading) { section_ = std::move(heading); }

  // Each of these adds an option whose value lives in `target`, which must outlive the table and holds the
  // default. The returned reference is good until the next option is added.
  Option& text(std::string name, std::string value_name, std::string& target, std::string help);
  Option& choice(std::string name, std::string& target, std::vector<std::string> choices, std::string help);
  Option& number(std::string name, std::string value_name, double& target, NumberRange range,
                 std::string help);
  // A number in the range, which does not hold 0, or the word off, which is stored as 0.
  Option& number_or_off(std::string name, std::string value_name, double& target, NumberRange range,
                        std::string help);
  // An option that is not set by default; `default_text` says for people what holds then.
  Option& number(std::string name, std::string value_name, std::optional<double>& target, NumberRange range,
                 std::string help, std::string default_text);
  Option& whole(std::string name, std::string value_name, int64_t& target, int64_t low, int64_t high,
                std::string help);
  Option& whole(std::string name, std::string value_name, int& target, int low, int high, std::string help);
  Option& whole(std::string name, std::string value_name, std::optional<int64_t>& target, int64_t low,
                int64_t high, std::string help);
  Option& whole(std::string name, std::string value_name, uint64_t& target, std::string help);
  // A whole number from 1 to `high`, or the word auto, which is stored as 0.
  Option& whole_or_auto(std::string name, std::string value_name, int& target, int high, std::string help);
  Option& whole_or_auto(std::string name, std::string value_name, int64_t& target, int64_t high,
                        std::string help);
  // on or off.
  Option& on_off(std::string name, bool& target, std::string help);
  // On the command line the bare flag means on.
  Option& bare_switch(std::string name, bool& target, std::string help);
  // The file that `parse` reads before it applies the command line.
  Option& config_file(std::string name, std::string& target, std::string help);
  Option& add(Option option);

  // Two options that exclude each other on one level (both flags, or both keys).
  void exclude(std::string first, std::string second) { exclusions_.emplace_back(first, second); }

  // Adds the named options of another table, bound to the same places, under this table's current section.
  void take(const OptionTable& other, const std::vector<std::string>& names);

  // Reads the command line (argv[0] is the command's own name and is skipped) and the YAML file that it may
  // name, and stores the values: the file's first, the command line's on top. Throws UserError or
  // HelpRequest; the targets are then half-filled and must not be used.
  void parse(int argc, const char* const* argv);

  // Reads values from YAML text; `file` is the name for messages.
  void parse_yaml(const std::string& yaml, const std::string& file);

  // Where the option's value came from in `parse`.
  OptionLevel level(const std::string& name) const;

  // All values as a YAML map in the table's order.
  std::string to_yaml() const;

  std::string help() const;

  // Throws std::out_of_range for a name that is not in the table.
  const Option& option(const std::string& name) const;

 private:
  struct Given {
    const Option* option;
    std::string text;
    std::string where;
  };

  const Option* find(std::string_view name) const;
  std::vector<std::string> names(bool file_keys_only) const;
  std::vector<Given> read_command_line(int argc, const char* const* argv) const;
  std::vector<Given> read_yaml(const std::string& yaml, const std::string& file) const;
  void apply(const std::vector<Given>& given, OptionLevel level);

  std::string command_;
  std::string summary_;
  std::string section_;
  std::vector<Option> options_;
  std::vector<std::pair<std::string, std::string>> exclusions_;
  std::map<std::string, OptionLevel, std::less<>> levels_;
};

}  // namespace annulus
