#include "launcher/host_session.h"

#include <cstdio>
#include <filesystem>
#include <random>

#include "collectives/tcp.h"
#include "launcher/host_report.h"
#include "launcher/options.h"
#include "telemetry/error.h"

namespace annulus {

void say_on_stderr(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

HostSession::HostSession(const RunHosts& hosts, const TrainConfig& config)
    : hosts_(hosts), config_(config), control_(hosts, say_on_stderr) {}

HostPlan HostSession::hosts() const {
  HostPlan plan;
  plan.count = hosts_.list.count();
  plan.node = hosts_.node;
  plan.secret = hosts_.secret;
  for (const Host& host : hosts_.list.hosts) {
    plan.names.push_back(host.name);
    plan.addresses.push_back(host.address);
  }
  return plan;
}

void HostSession::preflight(Job& job, const ResumePoint* resume) {
  HostPlan& plan = job.run.hosts;
  HostReport report{.facts = host_facts(job, hosts_), .ports = {}, .checkpoints = {}};
  for (int rank = 0; rank < job.run.config.workers; ++rank) {
    listeners_.push_back(listen_for_others(hosts_, 0));
    report.ports.push_back(local_address(listeners_.back().get()).port());
    plan.listeners.push_back(listeners_.back().get());
  }
  if (resume != nullptr) {
    for (const auto& offer : resume->offers) report.checkpoints.push_back({offer->step(), offer->weights()});
  }
  if (hosts_.starts_others) {
    const HostOrder order{.list = hosts_.list,
                          .secret = *hosts_.secret,
                          .port = control_.port(),
                          .config = to_yaml(config_),
                          .run_dir = resume != nullptr ? resume->run_dir : config_.run_dir,
                          .resume = config_.resume};
    const std::string program = config_.remote_path.empty()
                                    ? std::filesystem::read_symlink("/proc/self/exe").string()
                                    : config_.remote_path;
    control_.started_by(std::make_unique<RemoteStart>(order, program));
  }
  start_ = control_.preflight(report, config_.join_deadline);
  if (hosts_.node == 0) {
    std::random_device random;
    start_.job = (uint64_t{random()} << 32) | random();
  }
  if (static_cast<int>(start_.ports.size()) != plan.count)
    throw UserError("the first host counts other hosts");
  plan.ports = start_.ports;
  plan.job = start_.job;
  plan.config_hash = hash_of(report.facts);
  if (resume == nullptr) return;
  for (const auto& offer : resume->offers) {
    if (offer->step() == start_.step) job.run.resumed = offer;
  }
  job.run.resumed->check_fits(job.run.checkpoint);
}

std::string HostSession::run_dir(const std::string& own) const {
  return directory_below(hosts_.node == 0 ? own : start_.run_dir);
}

std::string HostSession::directory_below(const std::string& run_dir) const {
  if (hosts_.node == 0) return run_dir;
  return (std::filesystem::path(run_dir) / host_directory_name(hosts_.node)).string();
}

void HostSession::start(const std::string& run_dir) {
  start_.run_dir = run_dir;
  control_.start(start_);
}

void HostSession::give_up(const std::string& why) {
  if (control_.running()) {
    control_.member().fail(2, why);
  } else if (hosts_.node == 0) {
    control_.refuse(why);
  } else {
    control_.give_up(why);
  }
}

}  // namespace annulus
