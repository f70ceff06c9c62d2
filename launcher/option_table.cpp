#include "launcher/option_table.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <concepts>

#include "telemetry/nearest_name.h"

namespace annulus {
namespace {

template <typename T>
struct Bounds {
  T low;
  T high;

  std::string text() const {
    if (high == std::numeric_limits<T>::max()) return fmt::format("a whole number of at least {}", low);
    return fmt::format("a whole number from {} to {}", low, high);
  }
};

template <std::integral T>
T read_whole(const std::string& text, const std::string& where, const Bounds<T>& bounds,
             const char* or_else = "") {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  // For an unsigned type from_chars does not take the sign at all, but -1 is a number out of range, not a
  // typo.
  const bool negative =
      text.size() > 1 && text[0] == '-' && text.find_first_not_of("0123456789", 1) == text.npos;
  const bool whole = negative || (stop == end && error != std::errc::invalid_argument);
  if (!whole) throw UserError::format("{}: not a whole number; give {}{}", where, bounds.text(), or_else);
  if (error != std::errc{} || value < bounds.low || value > bounds.high) {
    throw UserError::format("{}: out of range; give {}{}", where, bounds.text(), or_else);
  }
  return value;
}

std::string describe(const NumberRange& range) {
  std::string text = fmt::format("a number {} {}", range.low_included ? "of at least" : "above", range.low);
  if (std::isfinite(range.high)) {
    text += fmt::format(" and {} {}", range.high_included ? "at most" : "below", range.high);
  }
  return text;
}

double read_number(const std::string& text, const std::string& where, const NumberRange& range,
                   const char* or_else = "") {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (stop != end || error == std::errc::invalid_argument || std::isnan(value)) {
    throw UserError::format("{}: not a number; give {}{}", where, describe(range), or_else);
  }
  const bool low_ok = range.low_included ? value >= range.low : value > range.low;
  const bool high_ok = range.high_included ? value <= range.high : value < range.high;
  if (error != std::errc{} || !std::isfinite(value) || !low_ok || !high_ok) {
    throw UserError::format("{}: out of range; give {}{}", where, describe(range), or_else);
  }
  return value;
}

bool read_on_off(const std::string& text, const std::string& where) {
  // What YAML writers produce for a truth value is understood as well.
  if (text == "on" || text == "true") return true;
  if (text == "off" || text == "false") return false;
  throw UserError::format("{}: neither on nor off; give one of them", where);
}

std::string on_off_text(bool value) { return value ? "on" : "off"; }

template <std::integral T>
Option whole_option(std::string name, std::string value_name, T& target, Bounds<T> bounds, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.read = [&target, bounds](const std::string& text, const std::string& where) {
    target = read_whole<T>(text, where, bounds);
  };
  option.write = [&target] { return std::to_string(target); };
  return option;
}

template <std::integral T>
Option auto_option(std::string name, std::string value_name, T& target, T high, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.read = [&target, high](const std::string& text, const std::string& where) {
    target = text == "auto" ? 0 : read_whole<T>(text, where, {1, high}, ", or auto");
  };
  option.write = [&target] { return target == 0 ? "auto" : std::to_string(target); };
  return option;
}

}  // namespace

Option& OptionTable::add(Option option) {
  if (option.section.empty()) option.section = section_;
  if (option.default_text.empty() && option.write) option.default_text = option.write().value_or("");
  options_.push_back(std::move(option));
  return options_.back();
}

Option& OptionTable::text(std::string name, std::string value_name, std::string& target, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.read = [&target](const std::string& text, const std::string& where) {
    if (text.empty()) throw UserError::format("{}: empty; give a value or leave the option out", where);
    if (text.find('\0') != text.npos) throw UserError::format("{}: holds a zero byte; take it out", where);
    target = text;
  };
  option.write = [&target] { return target.empty() ? std::nullopt : std::optional(target); };
  return add(std::move(option));
}

Option& OptionTable::choice(std::string name, std::string& target, std::vector<std::string> choices,
                            std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = fmt::format("{}", fmt::join(choices, "|"));
  option.help = std::move(help);
  option.read = [&target, choices = std::move(choices)](const std::string& text, const std::string& where) {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      const std::string near = nearest_name(text, choices);
      throw UserError::format("{}: not one of {}{}", where, fmt::join(choices, ", "),
                              near.empty() ? "; give one of them" : "; did you mean " + near + "?");
    }
    target = text;
  };
  option.write = [&target] { return target; };
  return add(std::move(option));
}

Option& OptionTable::number(std::string name, std::string value_name, double& target, NumberRange range,
                            std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.read = [&target, range](const std::string& text, const std::string& where) {
    target = read_number(text, where, range);
  };
  // fmt writes the shortest text that reads back as the same double.
  option.write = [&target] { return fmt::format("{}", target); };
  return add(std::move(option));
}

Option& OptionTable::number_or_off(std::string name, std::string value_name, double& target,
                                   NumberRange range, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.read = [&target, range](const std::string& text, const std::string& where) {
    target = text == "off" ? 0 : read_number(text, where, range, ", or off");
  };
  option.write = [&target] { return target == 0 ? "off" : fmt::format("{}", target); };
  return add(std::move(option));
}

Option& OptionTable::number(std::string name, std::string value_name, std::optional<double>& target,
                            NumberRange range, std::string help, std::string default_text) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.default_text = std::move(default_text);
  option.read = [&target, range](const std::string& text, const std::string& where) {
    target = read_number(text, where, range);
  };
  option.write = [&target] { return target ? std::optional(fmt::format("{}", *target)) : std::nullopt; };
  return add(std::move(option));
}

Option& OptionTable::whole(std::string name, std::string value_name, int64_t& target, int64_t low,
                           int64_t high, std::string help) {
  return add(
      whole_option<int64_t>(std::move(name), std::move(value_name), target, {low, high}, std::move(help)));
}

Option& OptionTable::whole(std::string name, std::string value_name, int& target, int low, int high,
                           std::string help) {
  return add(whole_option<int>(std::move(name), std::move(value_name), target, {low, high}, std::move(help)));
}

Option& OptionTable::whole(std::string name, std::string value_name, uint64_t& target, std::string help) {
  const Bounds<uint64_t> all{0, std::numeric_limits<uint64_t>::max()};
  return add(whole_option<uint64_t>(std::move(name), std::move(value_name), target, all, std::move(help)));
}

Option& OptionTable::whole(std::string name, std::string value_name, std::optional<int64_t>& target,
                           int64_t low, int64_t high, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.read = [&target, low, high](const std::string& text, const std::string& where) {
    target = read_whole<int64_t>(text, where, {low, high});
  };
  option.write = [&target] { return target ? std::optional(std::to_string(*target)) : std::nullopt; };
  return add(std::move(option));
}

Option& OptionTable::whole_or_auto(std::string name, std::string value_name, int& target, int high,
                                   std::string help) {
  return add(auto_option(std::move(name), std::move(value_name), target, high, std::move(help)));
}

Option& OptionTable::whole_or_auto(std::string name, std::string value_name, int64_t& target, int64_t high,
                                   std::string help) {
  return add(auto_option(std::move(name), std::move(value_name), target, high, std::move(help)));
}

Option& OptionTable::on_off(std::string name, bool& target, std::string help) {
  Option& option = bare_switch(std::move(name), target, std::move(help));
  option.value_name = "on|off";
  option.default_text = on_off_text(target);
  return option;
}

Option& OptionTable::bare_switch(std::string name, bool& target, std::string help) {
  Option option;
  option.name = std::move(name);
  option.help = std::move(help);
  option.read = [&target](const std::string& text, const std::string& where) {
    target = read_on_off(text, where);
  };
  option.write = [&target] { return on_off_text(target); };
  return add(std::move(option));
}

Option& OptionTable::config_file(std::string name, std::string& target, std::string help) {
  Option& option = text(std::move(name), "FILE", target, std::move(help));
  option.in_file = false;
  option.in_dump = false;
  option.is_config_file = true;
  return option;
}

void OptionTable::take(const OptionTable& other, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    Option copy = other.option(name);
    copy.section = section_;
    options_.push_back(std::move(copy));
  }
}

const Option* OptionTable::find(std::string_view name) const {
  const auto found =
      std::find_if(options_.begin(), options_.end(), [&](const Option& o) { return o.name == name; });
  return found == options_.end() ? nullptr : &*found;
}

const Option& OptionTable::option(const std::string& name) const {
  if (const Option* found = find(name)) return *found;
  throw std::out_of_range("no option " + name + " in the table of " + command_);
}

std::vector<std::string> OptionTable::names(bool file_keys_only) const {
  std::vector<std::string> all;
  for (const Option& option : options_) {
    if (option.in_file || !file_keys_only) all.push_back(option.name);
  }
  return all;
}

OptionLevel OptionTable::level(const std::string& name) const {
  const auto found = levels_.find(name);
  return found == levels_.end() ? OptionLevel::builtin : found->second;
}

void OptionTable::apply(const std::vector<Given>& given, OptionLevel level) {
  for (const Given& one : given) {
    one.option->read(one.text, one.where);
    levels_[one.option->name] = level;
  }
  for (const auto& [first, second] : exclusions_) {
    const Given* both[2] = {nullptr, nullptr};
    for (const Given& one : given) {
      if (one.option->name == first) both[0] = &one;
      if (one.option->name == second) both[1] = &one;
    }
    if (both[0] && both[1]) {
      throw UserError::format("{} and {}: they exclude each other; leave one out", both[0]->where,
                              both[1]->where);
    }
  }
}

}  // namespace annulus
