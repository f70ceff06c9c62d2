#include "launcher/run_hosts.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

#include "collectives/bridge.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

static_assert(kMostHosts == kMaxHosts);

constexpr size_t kMostOrderBytes = 1 << 20;

std::string to_hex(const Secret& secret) {
  std::string text;
  for (const std::byte byte : secret.bytes()) text += fmt::format("{:02x}", std::to_integer<int>(byte));
  return text;
}

Secret secret_from_hex(const std::string& text) {
  std::array<std::byte, Secret::kBytes> bytes{};
  if (text.size() != 2 * bytes.size()) throw UserError("a secret of another length");
  for (size_t i = 0; i < bytes.size(); ++i) {
    const std::string pair = text.substr(2 * i, 2);
    if (pair.find_first_not_of("0123456789abcdef") != pair.npos)
      throw UserError("a secret that is no number");
    bytes[i] = static_cast<std::byte>(std::stoi(pair, nullptr, 16));
  }
  return Secret(bytes);
}

// One line. Whatever the other end does, no more than a line's limit is read.
std::string read_line(int fd) {
  std::string line;
  for (char c = 0; line.size() < kMostOrderBytes;) {
    const ssize_t got = read(fd, &c, 1);  // byte by byte: what follows the line stays in the pipe
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || c == '\n') break;
    line += c;
  }
  return line;
}

void refuse_options_of_several(const TrainConfig& config, const std::string& remedy) {
  const auto refuse = [&](const std::string& option) {
    throw UserError::format("{}: it is for a run on several hosts; {}", option, remedy);
  };
  if (config.node) refuse(fmt::format("--node {}", *config.node));
  if (!config.secret_file.empty()) refuse("--secret-file " + config.secret_file);
  if (config.port) refuse(fmt::format("--port {}", *config.port));
  if (!config.remote_path.empty()) refuse("--remote-path " + config.remote_path);
}

void refuse_remote_path(const TrainConfig& config, const char* because) {
  if (config.remote_path.empty()) return;
  throw UserError::format("--remote-path {}: {}, and nothing is started by ssh; leave it out",
                          config.remote_path, because);
}

// Each host is started by itself, and knows the others by what it was given.
RunHosts by_hand(const TrainConfig& config, HostList list, int node) {
  RunHosts hosts{.list = std::move(list), .node = node};
  hosts.secret = read_secret(config.secret_file);
  hosts.port = config.port ? static_cast<uint16_t>(*config.port) : port_of(*hosts.secret);
  return hosts;
}

RunHosts by_order(const TrainConfig& config) {
  const auto refuse = [](const std::string& why) {
    throw UserError::format(
        "--hosts -: {}; it is how a host is started by the first one: give --hosts FILE on that", why);
  };
  if (!config.node) refuse("no --node");
  try {
    HostOrder order = host_order(read_line(STDIN_FILENO));
    if (*config.node == 0 || *config.node >= order.list.count()) refuse("no such host");
    RunHosts hosts{.list = order.list, .node = static_cast<int>(*config.node)};
    hosts.secret = order.secret;
    hosts.port = order.port;
    hosts.order = std::move(order);
    return hosts;
  } catch (const UserError& error) {
    refuse(error.what());
  }
  return {};
}

}  // namespace

void check_can_be_sent(const std::string& what, const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    throw UserError::format(
        "{} {}: it is not UTF-8, and cannot be sent to the other hosts; give it another name", what, text);
  }
}

std::string to_json(const HostOrder& order) {
  check_can_be_sent("--run-dir", order.run_dir);
  check_can_be_sent("--resume", order.resume);
  check_can_be_sent("--hosts", order.list.source);
  for (const Host& host : order.list.hosts) check_can_be_sent("host", host.name + " " + host.address);
  std::istringstream lines(order.config);
  for (std::string line; std::getline(lines, line);) check_can_be_sent("the configuration's", line);
  nlohmann::json hosts = nlohmann::json::array();
  for (const Host& host : order.list.hosts) hosts.push_back({host.name, host.address, host.slots});
  return nlohmann::json{
      {"hosts", hosts},        {"source", order.list.source}, {"secret", to_hex(order.secret)},
      {"port", order.port},    {"config", order.config},      {"run_dir", order.run_dir},
      {"resume", order.resume}}
      .dump();
}

// It comes from the user's own shell, so what is wrong with it is no more than an accident.
HostOrder host_order(const std::string& text) {
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    HostOrder order{.list = {},
                    .secret = secret_from_hex(json.at("secret")),
                    .port = json.at("port"),
                    .config = json.at("config"),
                    .run_dir = json.at("run_dir"),
                    .resume = json.at("resume")};
    order.list.source = json.at("source");
    for (const nlohmann::json& host : json.at("hosts")) {
      order.list.hosts.push_back({host.at(0), host.at(1), host.at(2)});
    }
    return order;
  } catch (const nlohmann::json::exception&) {
    throw UserError("stdin is not what the first host writes");
  }
}

RunHosts find_hosts(const TrainConfig& config,
                    const std::function<std::optional<std::string>(const std::string& name)>& variable) {
  if (config.hosts == "-") return by_order(config);
  if (config.hosts.empty()) {
    std::optional<SlurmPlace> slurm = config.node ? std::nullopt : slurm_place(variable);
    if (!slurm) {
      refuse_options_of_several(config, "give --hosts FILE, or leave it out");
      return {};
    }
    refuse_remote_path(config, "srun has started every host");
    if (config.secret_file.empty()) {
      throw UserError::format(
          "srun has started this on {} nodes, and there is no --secret-file: give a file that all of them "
          "see, "
          "of 32 random bytes that nobody else can read: (umask 077; openssl rand -hex 32 >FILE)",
          slurm->list.count());
    }
    return by_hand(config, std::move(slurm->list), slurm->node);
  }
  HostList list = read_hosts(config.hosts);
  if (!config.node) {
    if (!config.secret_file.empty()) {
      throw UserError::format(
          "--secret-file {}: without --node the other hosts are started by ssh, which hands them a secret of "
          "its own; leave it out, or give --node K on each host",
          config.secret_file);
    }
    if (list.count() == 1) {
      refuse_options_of_several(config, fmt::format("{} has one; leave it out", list.source));
      return {.list = std::move(list)};
    }
    return {.list = std::move(list),
            .secret = new_secret(),
            .port = static_cast<uint16_t>(config.port.value_or(0)),
            .starts_others = true};
  }
  if (*config.node >= list.count()) {
    throw UserError::format("--node {}: {} has {} host{}; give 0 to {}", *config.node, list.source,
                            list.count(), list.count() == 1 ? "" : "s", list.count() - 1);
  }
  refuse_remote_path(config, "--node says that every host is started by hand");
  if (config.secret_file.empty()) {
    throw UserError::format(
        "--node {}: there is no --secret-file, by which hosts that are started by hand know each other; give "
        "one with 32 random bytes that nobody else can read, the same on all of them: (umask 077; openssl "
        "rand "
        "-hex 32 >FILE)",
        *config.node);
  }
  return by_hand(config, std::move(list), static_cast<int>(*config.node));
}

TrainConfig on_hosts(TrainConfig config, const RunHosts& hosts) {
  if (hosts.list.hosts.empty()) return config;
  config.host_count = hosts.list.count();
  const int slots = workers_by_slots(hosts.list, config.workers);
  if (slots != 0) config.workers = slots;
  return config;
}

UniqueFd listen_for_others(const RunHosts& hosts, uint16_t port) {
  const Host& own = hosts.list.hosts[hosts.node];
  try {
    const SocketAddress address = resolve(own.address, port);
    check_reachable(own, address);
    return listen_on(address);
  } catch (const UserError& error) {
    throw UserError::format("{}: host {}, which is this one: {}", hosts.list.source, own.name, error.what());
  }
}

void check_reachable(const Host& own, const SocketAddress& address) {
  if (!address.is_loopback() || own.address == address.host() || own.address == "localhost") return;
  throw UserError::format(
      "\"{}\" is {} here, where no other host can come (/etc/hosts may say so). Give the address that the "
      "others know, as addr=, or change /etc/hosts",
      own.address, address.host());
}

// FNV-1a, of which 13 bits can be seen.
uint16_t port_of(const Secret& secret) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte byte : secret.bytes()) hash = (hash ^ std::to_integer<uint64_t>(byte)) * 0x100000001b3;
  return static_cast<uint16_t>(20'000 + hash % 10'000);
}

}  // namespace annulus
