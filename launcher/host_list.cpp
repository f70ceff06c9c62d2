#include "launcher/host_list.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "launcher/placement.h"
#include "telemetry/error.h"
#include "telemetry/nearest_name.h"

namespace annulus {
namespace {

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// What a host's name or address may be made of; ':' and '%' are those of IPv6. It must not begin with a dash,
// since ssh would take it for a flag.
bool is_host_text(std::string_view text, std::string_view further) {
  return !text.empty() && text.size() <= 255 && text.front() != '-' &&
         std::all_of(text.begin(), text.end(), [&](char c) {
           return is_letter_or_digit(c) || std::string_view("._-").find(c) != std::string_view::npos ||
                  further.find(c) != std::string_view::npos;
         });
}

std::optional<int> whole_number(std::string_view text, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 || value > most) return {};
  return value;
}

// One line's words into a host. `where`: "hosts.txt:3".
Host parse_host(std::istringstream words, const std::string& where) {
  Host host;
  words >> host.name;
  if (host.name.find('=') != std::string::npos) {
    throw UserError::format("{}: {}: a line begins with the host's name; give NAME {}", where, host.name,
                            host.name);
  }
  const size_t at = host.name.find('@');
  const std::string_view name = std::string_view(host.name).substr(at == host.name.npos ? 0 : at + 1);
  if (at == 0 || !is_host_text(host.name, "@:") || !is_host_text(name, ":")) {
    throw UserError::format("{}: {}: not a host's name; give one like big1, trainer@big1 or 10.0.0.1", where,
                            host.name);
  }
  host.address = name;
  std::string seen;
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    if (key != "slots" && key != "addr") {
      const std::string near = nearest_name(key, {"slots", "addr"});
      throw UserError::format(
          "{}: {}: there are slots=N and addr=A{}", where, word,
          near.empty() ? "; a host has a line of its own" : fmt::format("; did you mean {}=?", near));
    }
    if (equals == word.npos || equals + 1 == word.size()) {
      throw UserError::format("{}: {}: no value; give {}", where, word,
                              key == "slots" ? "slots=N" : "addr=A");
    }
    if (seen.find(key) != seen.npos) {
      throw UserError::format("{}: {}: {} is given twice; leave one out", where, word, key);
    }
    seen += key + " ";
    const std::string value = word.substr(equals + 1);
    if (key == "addr") {
      if (!is_host_text(value, ":%")) {
        throw UserError::format("{}: {}: not an address; give one like 10.0.0.1 or a name", where, word);
      }
      host.address = value;
      continue;
    }
    const std::optional<int> slots = whole_number(value, kMostWorkers);
    if (!slots || *slots == 0) {
      throw UserError::format("{}: {}: not a number of workers from 1 to {}; {}", where, word, kMostWorkers,
                              slots ? "leave the line out if the host is not to be used" : "give one");
    }
    host.slots = *slots;
  }
  return host;
}

void expand_into(std::string_view text, const std::string& head, std::vector<std::string>& names) {
  const size_t open = text.find('[');
  if (open == text.npos) {
    if (text.find(']') != text.npos) throw std::invalid_argument("a ] without its [");
    names.push_back(head + std::string(text));
    if (!is_host_text(names.back(), "")) {
      throw std::invalid_argument(fmt::format("'{}' is no host's name", names.back()));
    }
    if (names.size() > kMostHosts) {
      throw std::invalid_argument(fmt::format("more than {} hosts", kMostHosts));
    }
    return;
  }
  const size_t close = text.find(']', open);
  if (close == text.npos) throw std::invalid_argument("a [ without its ]");
  const std::string prefix = head + std::string(text.substr(0, open));
  const std::string_view tail = text.substr(close + 1);
  const std::string_view numbers = text.substr(open + 1, close - open - 1);
  for (size_t begin = 0; begin <= numbers.size();) {
    const size_t comma = std::min(numbers.find(',', begin), numbers.size());
    const std::string_view item = numbers.substr(begin, comma - begin);
    begin = comma + 1;
    const size_t dash = std::min(item.find('-'), item.size());
    const std::string_view low = item.substr(0, dash);
    const std::string_view high = dash == item.size() ? low : item.substr(dash + 1);
    const std::optional<int> first = whole_number(low, 999'999'999), last = whole_number(high, 999'999'999);
    if (!first || !last) {
      throw std::invalid_argument(fmt::format("'{}' is neither a number nor a range like 01-16", item));
    }
    if (*last < *first) throw std::invalid_argument(fmt::format("the range '{}' runs backwards", item));
    if (*last - *first >= kMostHosts) {
      throw std::invalid_argument(fmt::format("more than {} hosts", kMostHosts));
    }
    // Leading zeros count: a[01-03] is a01, a02, a03.
    for (int i = *first; i <= *last; ++i) {
      expand_into(tail, prefix + fmt::format("{:0{}}", i, static_cast<int>(low.size())), names);
    }
  }
}

// A whole number of the environment; nothing where it is not set.
std::optional<int> number_of(const std::optional<std::string>& text, const char* name, int most) {
  if (!text) return {};
  const std::optional<int> value = whole_number(*text, most);
  if (!value) {
    throw UserError::format("{}={}: not a whole number from 0 to {}; start annulus train with srun", name,
                            *text, most);
  }
  return value;
}

}  // namespace

HostList parse_hosts(const std::string& text, const std::string& file) {
  HostList list{.hosts = {}, .source = file};
  std::vector<int> lines;
  std::istringstream stream(text);
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    line.resize(std::min(line.find('#'), line.size()));
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string where = fmt::format("{}:{}", file, number);
    Host host = parse_host(std::istringstream(line), where);
    for (size_t i = 0; i < list.hosts.size(); ++i) {
      if (list.hosts[i].name == host.name) {
        throw UserError::format(
            "{}: {}: the same host as in line {}; a host has one line, and slots=N says how many workers it "
            "has",
            where, host.name, lines[i]);
      }
      if (list.hosts[i].address == host.address) {
        throw UserError::format("{}: {}: its address {} is that of {} in line {}; give each its own addr=",
                                where, host.name, host.address, list.hosts[i].name, lines[i]);
      }
    }
    list.hosts.push_back(std::move(host));
    lines.push_back(number);
    if (list.count() > kMostHosts) {
      throw UserError::format("{}: more than {} hosts; give fewer, with more slots each", where, kMostHosts);
    }
  }
  if (list.hosts.empty()) {
    throw UserError::format("{}: no host is in it; give one a line: NAME [slots=N] [addr=A]", file);
  }
  return list;
}

HostList read_hosts(const std::string& path) {
  if (std::filesystem::is_directory(path)) {
    throw UserError::format("--hosts {}: it is a directory; give a file with a host a line", path);
  }
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (!file || file.bad()) {
    throw UserError::format("--hosts {}: it cannot be read: {}; give a file with a host a line", path,
                            std::strerror(errno));
  }
  return parse_hosts(text.str(), path);
}

std::vector<std::string> expand_node_list(std::string_view text) {
  std::vector<std::string> names;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] == '[') ++depth;
    if (i < text.size() && text[i] == ']') --depth;
    if (depth < 0 || depth > 1) throw std::invalid_argument("brackets inside brackets, or a ] without its [");
    if (i < text.size() && (text[i] != ',' || depth > 0)) continue;
    if (depth > 0) throw std::invalid_argument("a [ without its ]");
    expand_into(text.substr(begin, i - begin), "", names);
    begin = i + 1;
  }
  return names;
}

std::optional<SlurmPlace> slurm_place(
    const std::function<std::optional<std::string>(const std::string& name)>& variable) {
  // A step may have fewer nodes than its job.
  const bool step = variable("SLURM_STEP_NODELIST").has_value();
  const char* const nodes_name = step ? "SLURM_STEP_NUM_NODES" : "SLURM_NNODES";
  const char* const list_name = step ? "SLURM_STEP_NODELIST" : "SLURM_JOB_NODELIST";
  const auto number = [&](const char* name, int most) { return number_of(variable(name), name, most); };
  const std::optional<int> nodes = number(nodes_name, 1'000'000);
  const std::optional<int> process = number("SLURM_PROCID", 100'000'000);
  if (!nodes || *nodes < 2 || !process) return {};
  const std::optional<std::string> text = variable(list_name);
  if (!text) {
    throw UserError::format("{}={}, but {} is not set; start annulus train with srun", nodes_name, *nodes,
                            list_name);
  }
  std::vector<std::string> names;
  try {
    names = expand_node_list(*text);
  } catch (const std::invalid_argument& error) {
    throw UserError::format("{}={}: {}; give --hosts FILE and --node K instead", list_name, *text,
                            error.what());
  }
  if (static_cast<int>(names.size()) != *nodes) {
    throw UserError::format("{}={} has {} hosts, and {}={}; start annulus train with srun", list_name, *text,
                            names.size(), nodes_name, *nodes);
  }
  const std::optional<int> node = number("SLURM_NODEID", 1'000'000);
  const std::string per_node = variable("SLURM_NTASKS_PER_NODE").value_or("1");
  const std::optional<int> tasks = number(step ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS", 100'000'000);
  if (per_node != "1" || tasks.value_or(*nodes) != *nodes || node.value_or(*process) != *process ||
      *process >= *nodes) {
    throw UserError::format(
        "Slurm starts {} tasks on {} nodes, and this is task {} on node {}: annulus is started once on each, "
        "and starts its workers itself; give srun --ntasks-per-node=1",
        tasks ? std::to_string(*tasks) : per_node + " x " + std::to_string(*nodes), *nodes, *process,
        node.value_or(*process));
  }
  SlurmPlace place{.list = {.hosts = {}, .source = list_name}, .node = *process};
  for (std::string& name : names) place.list.hosts.push_back({.name = name, .address = name, .slots = 0});
  return place;
}

int workers_by_slots(const HostList& list, int workers) {
  const Host& first = list.hosts.front();
  for (const Host& host : list.hosts) {
    if (host.slots == first.slots) continue;
    const auto says = [](const Host& of) {
      return of.slots == 0 ? std::string("no slots") : fmt::format("slots={}", of.slots);
    };
    throw UserError::format(
        "{}: {} has {} and {} has {}: all hosts have the same number of workers, because what a worker owns "
        "of the weights it owns on every host; give all the same, or none and --workers N",
        list.source, first.name, says(first), host.name, says(host));
  }
  if (first.slots != 0 && workers != 0 && workers != first.slots) {
    throw UserError::format("--workers {}: {} says slots={}; leave one of them out", workers, list.source,
                            first.slots);
  }
  return first.slots;
}

}  // namespace annulus
