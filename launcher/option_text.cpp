// The three outer forms of an option table: the command line, the YAML file, the help text.
#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "launcher/option_table.h"
#include "telemetry/nearest_name.h"
#include "telemetry/text_file.h"

namespace annulus {
namespace {

std::string did_you_mean(std::string_view word, const std::vector<std::string>& names,
                         std::string_view prefix, const std::string& otherwise) {
  const std::string near = nearest_name(word, names);
  return near.empty() ? otherwise : fmt::format("did you mean {}{}?", prefix, near);
}

// Breaks help text at spaces so that it fits beside the column of flags.
std::string wrap(const std::string& text, size_t indent, size_t width) {
  std::string out;
  size_t column = indent;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (column > indent && column + 1 + word.size() > width) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    at = end + 1;
  }
  return out;
}

}  // namespace

std::vector<OptionTable::Given> OptionTable::read_command_line(int argc, const char* const* argv) const {
  CLI::App app(summary_, command_);
  app.set_help_flag("-h,--help", "");
  app.allow_extras();
  std::vector<std::pair<const Option*, CLI::Option*>> bound;
  for (const Option& option : options_) {
    // CLI11 only takes the words apart; all values are read by the table, after the file's.
    CLI::Option* cli = app.add_option("--" + option.name, [](const CLI::results_t&) { return true; });
    // A switch may have a value ("--quiet off" undoes the file's), any other option must.
    cli->expected(option.value_name.empty() ? 0 : 1, 1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    bound.emplace_back(&option, cli);
  }

  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  for (const std::string& word : words) {
    // CLI11 would take the next word for the value.
    if (word.starts_with("--") && word.size() > 3 && word.find('=') == word.size() - 1) {
      throw UserError::format("{}: no value after the equals sign; give one or leave the flag out", word);
    }
  }
  try {
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));  // CLI11 takes them last first
  } catch (const CLI::CallForHelp&) {
    throw HelpRequest(help());
  } catch (const CLI::ArgumentMismatch&) {
    // Only the last word can lack its value: a flag takes the next word whatever it is.
    const Option* last = find(std::string_view(words.back()).substr(2));
    throw UserError::format("{}: no value; give {}", words.back(), last ? last->value_name : "one");
  } catch (const CLI::ParseError& error) {
    throw UserError::format("{}; see {} --help", error.what(), command_);
  }

  const std::vector<std::string> extras = app.remaining();
  if (!extras.empty()) {
    const std::string word = extras.front().substr(0, extras.front().find('='));
    const std::string see_help = fmt::format("see {} --help", command_);
    const size_t dashes = std::min(word.find_first_not_of('-'), word.size());
    const std::string hint = did_you_mean(word.substr(dashes), names(false), "--", see_help);
    if (dashes > 0) throw UserError::format("{}: unknown flag of {}; {}", word, command_, hint);
    throw UserError::format("{}: {} takes flags only; {}", word, command_, hint);
  }

  std::vector<Given> given;
  for (const auto& [option, cli] : bound) {
    if (cli->count() == 0) continue;
    const std::string flag = "--" + option->name;
    const std::vector<std::string> texts = cli->results();
    if (texts.size() > 1) {
      throw UserError::format("{}: given {} times ({}); give it once", flag, texts.size(),
                              fmt::join(texts, ", "));
    }
    const bool bare = option->value_name.empty() && (texts.empty() || texts[0].empty() || texts[0] == "{}");
    const std::string text = bare ? "on" : texts[0];
    if (text.starts_with("--")) {
      throw UserError::format("{}: no value before {}; give {}", flag, text, option->value_name);
    }
    given.push_back({option, text, flag + " " + text});
  }
  return given;
}

std::vector<OptionTable::Given> OptionTable::read_yaml(const std::string& yaml,
                                                       const std::string& file) const {
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(yaml);
  } catch (const YAML::Exception& error) {
    throw UserError::format("{}:{}:{}: does not parse as YAML ({}); write one `key: value` a line", file,
                            error.mark.line + 1, error.mark.column + 1, error.msg);
  }
  if (documents.size() > 1) {
    throw UserError::format("{}:{}: a second YAML document; keep one", file, documents[1].Mark().line + 1);
  }
  if (documents.empty() || documents[0].IsNull()) return {};
  if (!documents[0].IsMap()) {
    throw UserError::format("{}:{}: not a map of keys and values; write one `key: value` a line", file,
                            documents[0].Mark().line + 1);
  }

  std::vector<Given> given;
  std::map<std::string, int> seen;
  for (const auto& pair : documents[0]) {
    const int line = pair.first.Mark().line + 1;
    if (!pair.first.IsScalar()) {
      throw UserError::format("{}:{}: a key that is no word; write one `key: value` a line", file, line);
    }
    const std::string key = pair.first.Scalar();
    const std::string place = fmt::format("{}:{}: {}", file, line, key);
    const Option* option = find(key);
    if (option && !option->in_file)
      throw UserError::format("{}: a flag, but no key of the file; leave it out", place);
    if (!option) {
      throw UserError::format(
          "{}: unknown key; {}", place,
          did_you_mean(key, names(true), "", fmt::format("{} --help lists the keys", command_)));
    }
    const auto [first, is_new] = seen.emplace(key, line);
    if (!is_new)
      throw UserError::format("{}: given before, in line {}; keep one of them", place, first->second);
    if (pair.second.IsNull()) throw UserError::format("{}: no value; give one or leave the key out", place);
    if (!pair.second.IsScalar()) throw UserError::format("{}: a list or a map; give a single value", place);
    given.push_back({option, pair.second.Scalar(), place + ": " + pair.second.Scalar()});
  }
  return given;
}

void OptionTable::parse_yaml(const std::string& yaml, const std::string& file) {
  apply(read_yaml(yaml, file), OptionLevel::file);
}

void OptionTable::parse(int argc, const char* const* argv) {
  const std::vector<Given> flags = read_command_line(argc, argv);
  for (const Given& flag : flags) {
    if (!flag.option->is_config_file) continue;
    flag.option->read(flag.text, flag.where);
    parse_yaml(read_text_file(flag.text, "--config " + flag.text), flag.text);
  }
  apply(flags, OptionLevel::command_line);
}

std::string OptionTable::to_yaml() const {
  YAML::Emitter out;
  out << YAML::BeginMap;
  for (const Option& option : options_) {
    const std::optional<std::string> text = option.in_dump ? option.write() : std::nullopt;
    if (text) out << YAML::Key << option.name << YAML::Value << *text;
  }
  out << YAML::EndMap;
  return std::string(out.c_str(), out.size()) + "\n";
}

std::string OptionTable::help() const {
  constexpr size_t column = 28;
  constexpr size_t width = 110;
  std::string out = fmt::format("usage: {} [flags]\n\n{}\n", command_, wrap(summary_, 0, width));
  std::string heading;
  for (const Option& option : options_) {
    if (option.section != heading) {
      heading = option.section;
      out += fmt::format("\n{}\n", heading);
    }
    const bool is_switch = option.value_name.empty();
    const std::string flag = fmt::format("  --{}{}{}", option.name, is_switch ? "" : " ", option.value_name);
    const bool has_default = !is_switch && !option.default_text.empty();
    const std::string help = option.help + (has_default ? fmt::format(" [{}]", option.default_text) : "");
    const std::string gap =
        flag.size() + 2 > column ? "\n" + std::string(column, ' ') : std::string(column - flag.size(), ' ');
    out += flag + gap + wrap(help, column, width) + "\n";
  }
  return out;
}

}  // namespace annulus
