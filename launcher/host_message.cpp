#include "launcher/host_message.h"

#include <fmt/format.h>

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "collectives/wait.h"
#include "launcher/host_list.h"

namespace annulus {
namespace {

using Json = nlohmann::json;
using Kind = HostMessage::Kind;

constexpr size_t kMostFacts = 200;
constexpr size_t kMostText = 16 << 10;
constexpr size_t kMostCheckpoints = 1000;

// A field that a kind of message has; the others must not be there.
enum Field : uint8_t { kAttempt = 1, kStep = 2, kCode = 4, kText = 8, kReport = 16, kStart = 32 };

struct KindRow {
  Kind kind;
  const char* name;
  uint8_t fields;
};
constexpr std::array kKinds = {
    KindRow{Kind::kJoin, "join", kReport},
    KindRow{Kind::kStart, "start", kStart},
    KindRow{Kind::kRefuse, "refuse", kText},
    KindRow{Kind::kAbort, "abort", kAttempt | kText},
    KindRow{Kind::kParked, "parked", kAttempt | kStep},
    KindRow{Kind::kResume, "resume", kAttempt | kStep},
    KindRow{Kind::kFinished, "finished", kAttempt},
    KindRow{Kind::kDismiss, "dismiss", 0},
    KindRow{Kind::kWarn, "warn", kText},
    KindRow{Kind::kStop, "stop", kCode},
    KindRow{Kind::kQuit, "quit", kCode},
    KindRow{Kind::kFailed, "failed", kCode | kText},
    KindRow{Kind::kEnd, "end", kCode | kText},
    KindRow{Kind::kEnded, "ended", kStep},
    KindRow{Kind::kSettle, "settle", kStep},
};

const KindRow& row_of(Kind kind) { return kKinds[static_cast<size_t>(kind)]; }

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> text, Args&&... args) {
  throw std::invalid_argument(fmt::format(text, std::forward<Args>(args)...));
}

// An object whose keys are taken one by one; done() refuses what is left.
class Fields {
 public:
  Fields(const Json& json, const char* what) : json_(json), what_(what) {
    if (!json.is_object()) refuse("{} is no object", what);
  }
  const Json& take(const char* name) {
    const auto found = json_.find(name);
    if (found == json_.end()) refuse("{} has no {}", what_, name);
    ++taken_;
    return *found;
  }
  uint64_t number(const char* name, uint64_t most) {
    const Json& value = take(name);
    if (!value.is_number_unsigned() || value.get<uint64_t>() > most) {
      refuse("{} of {} is no number up to {}", name, what_, most);
    }
    return value.get<uint64_t>();
  }
  std::string text(const char* name, size_t most) {
    const Json& value = take(name);
    if (!value.is_string() || value.get_ref<const std::string&>().size() > most) {
      refuse("{} of {} is no text of at most {} bytes", name, what_, most);
    }
    return value;
  }
  const Json& list(const char* name, size_t most) {
    const Json& value = take(name);
    if (!value.is_array() || value.size() > most) refuse("{} of {} is no list up to {}", name, what_, most);
    return value;
  }
  void done() const {
    if (json_.size() != taken_) refuse("{} has {} fields, not {}", what_, json_.size(), taken_);
  }

 private:
  const Json& json_;
  const char* what_;
  size_t taken_ = 0;
};

std::vector<uint16_t> ports_from(const Json& list) {
  std::vector<uint16_t> ports;
  for (const Json& port : list) {
    if (!port.is_number_unsigned() || port.get<uint64_t>() == 0 || port.get<uint64_t>() > 65'535) {
      refuse("a port is no number from 1 to 65535");
    }
    ports.push_back(port.get<uint16_t>());
  }
  return ports;
}

Json to_json_of(const HostReport& report) {
  Json facts = Json::array(), saved = Json::array();
  for (const auto& [name, value] : report.facts) facts.push_back({{"name", name}, {"value", value}});
  for (const HostReport::Saved& one : report.checkpoints) {
    saved.push_back({{"step", one.step}, {"weights", one.weights}});
  }
  return {{"facts", facts}, {"ports", report.ports}, {"checkpoints", saved}};
}

HostReport report_from(const Json& json) {
  HostReport report;
  Fields fields(json, "a report");
  for (const Json& fact : fields.list("facts", kMostFacts)) {
    Fields of(fact, "a fact");
    std::string name = of.text("name", 100);
    report.facts.emplace_back(std::move(name), of.text("value", kMostText));
    of.done();
  }
  report.ports = ports_from(fields.list("ports", kMaxRanks));
  for (const Json& one : fields.list("checkpoints", kMostCheckpoints)) {
    Fields of(one, "a checkpoint");
    HostReport::Saved& saved = report.checkpoints.emplace_back();
    saved.step = static_cast<uint32_t>(of.number("step", std::numeric_limits<uint32_t>::max()));
    saved.weights = of.text("weights", 100);
    of.done();
  }
  fields.done();
  return report;
}

Json to_json_of(const HostStart& start) {
  return {{"job", start.job}, {"ports", start.ports}, {"step", start.step}, {"run_dir", start.run_dir}};
}

HostStart start_from(const Json& json) {
  HostStart start;
  Fields fields(json, "a start");
  start.job = fields.number("job", std::numeric_limits<uint64_t>::max());
  for (const Json& ports : fields.list("ports", kMostHosts)) {
    if (!ports.is_array() || ports.size() > static_cast<size_t>(kMaxRanks)) {
      refuse("ports of a host are no list");
    }
    start.ports.push_back(ports_from(ports));
  }
  start.step = static_cast<uint32_t>(fields.number("step", std::numeric_limits<uint32_t>::max()));
  start.run_dir = fields.text("run_dir", 4096);
  fields.done();
  return start;
}

}  // namespace

const char* name_of(Kind kind) { return row_of(kind).name; }

std::string to_json(const HostMessage& message) {
  const KindRow& row = row_of(message.kind);
  Json json = {{"kind", row.name}};
  if (row.fields & kAttempt) json["attempt"] = message.attempt;
  if (row.fields & kStep) json["step"] = message.step;
  if (row.fields & kCode) json["code"] = message.code;
  if (row.fields & kText) json["text"] = message.text.substr(0, kMostText);
  if (row.fields & kReport) json["report"] = to_json_of(message.report);
  if (row.fields & kStart) json["start"] = to_json_of(message.start);
  // What a system says of an error, or a file is called, need not be UTF-8.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

HostMessage host_message(std::string_view text) {
  if (text.size() > kMostMessageBytes) refuse("a message of {} bytes", text.size());
  // Deep nesting is refused before it is built.
  const Json json = Json::parse(
      text,
      [](int depth, Json::parse_event_t, Json&) {
        if (depth > 6) refuse("a message with lists in lists in lists");
        return true;
      },
      false);
  if (json.is_discarded()) refuse("a message that is no JSON");
  Fields fields(json, "a message");
  const std::string name = fields.text("kind", 20);
  HostMessage message;
  const KindRow* found = nullptr;
  for (const KindRow& row : kKinds) {
    if (row.name == name) found = &row;
  }
  if (found == nullptr) refuse("a message of kind '{}'", name);
  message.kind = found->kind;
  constexpr uint64_t kMost = std::numeric_limits<uint32_t>::max();
  if (found->fields & kAttempt) message.attempt = static_cast<uint32_t>(fields.number("attempt", kMost));
  if (found->fields & kStep) message.step = static_cast<uint32_t>(fields.number("step", kMost));
  if (found->fields & kCode) message.code = static_cast<int>(fields.number("code", 255));
  if (found->fields & kText) message.text = fields.text("text", 4 * kMostText);
  if (found->fields & kReport) message.report = report_from(fields.take("report"));
  if (found->fields & kStart) message.start = start_from(fields.take("start"));
  fields.done();
  return message;
}

}  // namespace annulus
