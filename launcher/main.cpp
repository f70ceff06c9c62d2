// annulus: the command line.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/bench_accuracy.h"
#include "bench/bench_bridge.h"
#include "bench/bench_collectives.h"
#include "bench/bench_compression.h"
#include "bench/bench_layers.h"
#include "bench/bench_recovery.h"
#include "bench/bench_train.h"
#include "bench/bench_update.h"
#include "collectives/wait.h"
#include "launcher/check_command.h"
#include "launcher/checkpoint_command.h"
#include "launcher/child_process.h"
#include "launcher/job.h"
#include "launcher/model_command.h"
#include "launcher/options.h"
#include "launcher/resume.h"
#include "launcher/run_hosts.h"
#include "launcher/topo_command.h"
#include "launcher/train_command.h"
#include "launcher/version.h"

namespace annulus {
namespace {

char** original_argv = nullptr;

constexpr const char* kUsage =
    "annulus trains neural networks on one many-core box.\n"
    "\n"
    "  annulus train [flags]        trains; without flags SimpleCNN on Fashion-MNIST, one worker per core\n"
    "  annulus topo [flags]         draws the machine and the plan, runs nothing\n"
    "  annulus bench train [flags]  measures steps on synthetic data\n"
    "  annulus bench layers [flags] measures the kernels of a step one by one\n"
    "  annulus bench collectives [flags]  measures all-reduce and its kin beside the memory's floor\n"
    "  annulus bench update [flags]  measures the fused update beside a copy\n"
    "  annulus bench compression [flags]  measures how gradients are made smaller for the wire\n"
    "  annulus bench bridge [flags]  measures all-reduce between hosts beside iperf3\n"
    "  annulus bench recovery [flags]  kills workers at random, measures how the run goes on\n"
    "  annulus bench accuracy [flags]  trains with whole and with compressed gradients, compares accuracies\n"
    "  annulus check ALGORITHM      checks direct, ring or hierarchical against a serial run, without data\n"
    "  annulus model NETWORK        shows a network as YAML, its layers, parameters, operations, memory\n"
    "  annulus checkpoint show|verify|export  what a checkpoint holds, whether it is intact, its model "
    "alone\n"
    "  annulus --version            version, compiler, oneDNN, instruction sets\n"
    "  annulus --help               this text\n"
    "\n"
    "Each command explains its flags with --help.\n";

// Whether the file of a flag ("--config") is something that can be read only once.
bool reads_a_pipe(const std::vector<std::string>& words, const std::string& flag) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == flag && i + 1 < words.size()) return !std::filesystem::is_regular_file(words[i + 1]);
    if (words[i].starts_with(flag + "=")) {
      return !std::filesystem::is_regular_file(words[i].substr(flag.size() + 1));
    }
  }
  return false;
}

// Idle threads of OpenMP's pool spin for milliseconds by default, which starves whoever shares their cores.
// libgomp reads this variable when it is loaded, that is before main: so the program starts itself anew,
// once, if a run has a pool at all. About 0.1 ms, twice what waking a thread costs.
void limit_pool_spinning(int threads_per_worker, const std::vector<std::string>& words) {
  if (threads_per_worker < 2 || reads_a_pipe(words, "--config") || reads_a_pipe(words, "--hosts") ||
      getenv("GOMP_SPINCOUNT") != nullptr || getenv("OMP_WAIT_POLICY") != nullptr)
    return;
  setenv("GOMP_SPINCOUNT", "5000", 1);
  execv("/proc/self/exe", original_argv);  // where that fails the run is only slower
}

std::optional<std::string> variable(const std::string& name) {
  const char* const value = getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

// `words`: the whole command line; argv begins with the command.
int train(int argc, const char* const* argv, const std::vector<std::string>& words, int64_t began_ns) {
  TrainConfig config = parse_train(argc, argv);
  const RunHosts hosts = find_hosts(config, variable);
  if (hosts.order) {  // which says what the first host has read, from a checkpoint as well
    const BaseConfig base{hosts.order->config, "the order of " + hosts.list.hosts[0].name};
    config = parse_train(argc, argv, &base);
    config.run_dir = hosts.order->run_dir;
    config.resume = hosts.order->resume;
  }
  config = on_hosts(config, hosts);
  if (!config.resume.empty() && !hosts.order && reads_a_pipe(words, "--config")) {
    throw UserError("--resume: the configuration is read twice, and --config is no file that can be");
  }
  std::optional<ResumePoint> resume;
  if (!config.resume.empty()) {
    resume = hosts.several() ? find_resume_point_of_hosts(config.resume, config.run_dir, hosts.node)
                             : find_resume_point(config.resume, config.run_dir);
  }
  if (resume && !hosts.order) {
    const BaseConfig base{resume->checkpoint->config(), resume->checkpoint->path()};
    config = parse_train(argc, argv, &base);
    if (hosts.has_slots()) config.workers = 0;  // the hosts say how many, whatever they were before
    config = on_hosts(config, hosts);
  }
  if (!hosts.order) limit_pool_spinning(config.threads_per_worker, words);
  return train_command(config, resume ? &*resume : nullptr, hosts, began_ns);
}

// The command line, without changing argv: set_process_name writes there.
int run(const std::vector<std::string>& words, int64_t began_ns) {
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  const int argc = static_cast<int>(argv.size());
  const std::string command = argc > 1 ? words[1] : "--help";
  if (command == "train") return train(argc - 1, argv.data() + 1, words, began_ns);
  if (command == "topo") return topo_command(parse_topo(argc - 1, argv.data() + 1), began_ns);
  if (command == "check") return check_command(parse_check(argc - 1, argv.data() + 1));
  if (command == "model") return model_command(parse_model(argc - 1, argv.data() + 1));
  if (command == "checkpoint") return checkpoint_command(parse_checkpoint(argc - 1, argv.data() + 1));
  if (command == "bench") {
    const std::string what = argc > 2 ? words[2] : "";
    if (what == "train") {
      const BenchTrainOptions options = parse_bench_train(argc - 2, argv.data() + 2);
      limit_pool_spinning(options.config.threads_per_worker, words);
      return bench_train(options, began_ns);
    }
    if (what == "layers") {
      const BenchLayersOptions options = parse_bench_layers(argc - 2, argv.data() + 2);
      limit_pool_spinning(options.config.threads_per_worker, words);
      return bench_layers(options);
    }
    if (what == "collectives") return bench_collectives(parse_bench_collectives(argc - 2, argv.data() + 2));
    if (what == "update") return bench_update(parse_bench_update(argc - 2, argv.data() + 2));
    if (what == "compression") return bench_compression(parse_bench_compression(argc - 2, argv.data() + 2));
    if (what == "bridge") return bench_bridge(parse_bench_bridge(argc - 2, argv.data() + 2));
    if (what == "recovery") {
      const BenchRecoveryOptions options = parse_bench_recovery(argc - 2, argv.data() + 2);
      limit_pool_spinning(options.training.config.threads_per_worker, words);
      return bench_recovery(options, began_ns);
    }
    if (what == "accuracy") {
      const BenchAccuracyOptions options = parse_bench_accuracy(argc - 2, argv.data() + 2);
      limit_pool_spinning(options.config.threads_per_worker, words);
      return bench_accuracy(options);
    }
    throw unknown_command("bench " + what,
                          {"bench train", "bench layers", "bench collectives", "bench update",
                           "bench compression", "bench bridge", "bench recovery", "bench accuracy"});
  }
  if (command == "--version" || command == "version") {
    fmt::print("{}\n", version_text(ask_onednn_version()));
    return 0;
  }
  if (command == "--help" || command == "-h" || command == "help") {
    fmt::print("{}", kUsage);
    return 0;
  }
  throw unknown_command(
      command, {"train", "topo", "bench", "check", "model", "checkpoint", "test", "--version", "--help"});
}

// Makes file descriptors 0 to 2 exist: where the caller closed one, the segment would get its number, and the
// next message would be written into it.
void keep_standard_streams() {
  for (int fd = 0; fd < 3; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", O_RDWR);
  }
}

int output_lost() {
  std::fprintf(stderr, "annulus: the output could not be written: %s\n", std::strerror(errno));
  return 1;
}

}  // namespace
}  // namespace annulus

int main(int argc, char** argv) {
  using namespace annulus;
  const int64_t began_ns = now_ns();
  const std::vector<std::string> words(argv, argv + argc);
  original_argv = argv;
  remember_arguments(argc, argv);
  keep_standard_streams();
  // A limit on file sizes (ulimit -f) is reported by the call that meets it, instead of ending the process.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    const int code = run(words, began_ns);
    return std::fflush(stdout) == 0 ? code : output_lost();
  } catch (const HelpRequest& help) {
    fmt::print("{}", help.what());
    return std::fflush(stdout) == 0 ? 0 : output_lost();
  } catch (const UserError& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "annulus: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "annulus: %s\n", error.what());
    return 1;
  }
}
