#include "bench/bench_layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "bench/bench_train.h"
#include "bench/machine_peaks.h"
#include "bench/statistics.h"
#include "kernels/network.h"
#include "launcher/job.h"
#include "launcher/rank_group.h"
#include "runtime/arena.h"
#include "runtime/data_order.h"
#include "runtime/initial_weights.h"
#include "runtime/network_cost.h"
#include "runtime/optimizer_step.h"

namespace annulus {
namespace {

constexpr int kWarmupSteps = 2;
constexpr int kRepetitions = 5;  // of a layer alone

using nlohmann::ordered_json;

double ms(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

int64_t median(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <typename Body>
int64_t time_ns(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin)
      .count();
}

// Medians over steps, or over repetitions.
struct KernelTimes {
  int64_t in_step_ns = 0, view_ns = 0;  // the former without the latter
  int64_t alone_ns = 0;                 // both
};

struct StepTimes {
  std::vector<KernelTimes> kernels;       // as NetworkPlan::kernels
  double peak_gflops = 0, peak_gbps = 0;  // of one core
  int64_t step_ns = 0, loss_ns = 0, update_ns = 0, update_alone_ns = 0;
};

void to_json(nlohmann::json& json, const StepTimes& times) {
  json = {times.step_ns,     times.loss_ns,   times.update_ns,        times.update_alone_ns,
          times.peak_gflops, times.peak_gbps, nlohmann::json::array()};
  for (const KernelTimes& kernel : times.kernels) {
    json.back().push_back({kernel.in_step_ns, kernel.view_ns, kernel.alone_ns});
  }
}

void from_json(const nlohmann::json& json, StepTimes& times) {
  times.step_ns = json.at(0);
  times.loss_ns = json.at(1);
  times.update_ns = json.at(2);
  times.update_alone_ns = json.at(3);
  times.peak_gflops = json.at(4);
  times.peak_gbps = json.at(5);
  for (const auto& kernel : json.at(6)) times.kernels.push_back({kernel.at(0), kernel.at(1), kernel.at(2)});
}

// One worker without a segment: its network, weights, gradients and two generations of state.
class LayerBench {
 public:
  explicit LayerBench(const RunPlan& run)
      : run_(run),
        options_(network_options(run.config, run.spec)),
        network_([&] {
          options_.measure = true;
          return Network(run.spec, options_);
        }()),
        arena_(network_.plan().arena_bytes),
        memory_((1 + 2 * (1 + moment_arrays(run.config))) * run.buckets.elements * int64_t{sizeof(float)}) {
    network_.bind_arena(arena_.bytes());
    network_.set_parameter_offsets(run.buckets.offsets);
    auto* floats = reinterpret_cast<float*>(memory_.bytes().data());
    const auto take = [&] { return std::exchange(floats, floats + run_.buckets.elements); };
    gradients_ = take();
    for (StateArrays& state : state_) {
      state.weights = take();
      for (int i = 0; i < moment_arrays(run.config); ++i) state.moments[i] = take();
    }
    for (std::size_t i = 0; i < run.network.parameters.size(); ++i) {
      const ParameterPlan& parameter = run.network.parameters[i];
      draw_initial_weights(parameter, run.config.seed, i,
                           {state_[0].weights + run.buckets.offsets[i],
                            static_cast<std::size_t>(parameter.layout.padded_elements())});
    }
    images_.resize(network_.input().size());
    uniform_units(run.config.seed, 0, 0, images_);
    for (float& value : images_) value = 4 * value - 2;
    for (int64_t i = 0; i < images(); ++i) labels_.push_back(static_cast<uint8_t>(i % run.spec.classes));
  }

  int64_t measure_forward_backward(int64_t steps) {
    std::vector<int64_t> times;
    for (int64_t i = -kWarmupSteps; i < steps; ++i) {
      const int64_t step_ns = step();
      if (i >= 0) times.push_back(step_ns - update_ns_);
    }
    return median(std::move(times));
  }

  StepTimes measure(int64_t steps) {
    StepTimes times;
    times.kernels.resize(network_.plan().kernels.size());
    for (int i = 0; i < kWarmupSteps; ++i) step();
    std::vector<std::vector<KernelTime>> kernels;
    std::vector<int64_t> whole, loss, update;
    for (int64_t i = 0; i < steps; ++i) {
      reset();
      whole.push_back(step());
      kernels.push_back(network_.times());
      loss.push_back(loss_ns_);
      update.push_back(update_ns_);
    }
    times.step_ns = median(whole);
    times.loss_ns = median(loss);
    times.update_ns = median(update);
    for (std::size_t k = 0; k < times.kernels.size(); ++k) {
      times.kernels[k].in_step_ns = median_of(kernels, [&](const auto& all) { return all[k].kernel_ns; });
      times.kernels[k].view_ns = median_of(kernels, [&](const auto& all) { return all[k].view_ns; });
    }
    measure_alone(times);
    return times;
  }

 private:
  int64_t images() const { return run_.config.batch_size; }

  template <typename Get>
  static int64_t median_of(const std::vector<std::vector<KernelTime>>& samples, const Get& get) {
    std::vector<int64_t> values;
    for (const auto& sample : samples) values.push_back(get(sample));
    return median(std::move(values));
  }

  void reset() { std::fill(network_.times().begin(), network_.times().end(), KernelTime{}); }

  void update() {
    const OptimizerStep optimizer(run_.config, step_, 1e-4f);
    optimizer.apply(run_.buckets.statistics, gradients_, state_[(step_ - 1) % 2], state_[step_ % 2], {});
    average_in(run_.buckets.elements - run_.buckets.statistics, gradients_ + run_.buckets.statistics,
               state_[(step_ - 1) % 2].weights + run_.buckets.statistics,
               state_[step_ % 2].weights + run_.buckets.statistics);
  }

  // What a worker does in a step, without exchange and input; returns its nanoseconds.
  int64_t step() {
    ++step_;
    std::copy(images_.begin(), images_.end(), network_.input().begin());  // others use its room meanwhile
    const float* const weights = state_[(step_ - 1) % 2].weights;
    const int stages = network_.plan().stage_count();
    return time_ns([&] {
      network_.begin({.training = true, .images = images(), .share = 1});
      for (int stage = 0; stage < stages; ++stage) {
        for (int portion = 0; portion < network_.portions(stage); ++portion) {
          network_.forward(stage, portion, weights);
        }
      }
      loss_ns_ = time_ns([&] { network_.loss(labels_, 1.0f / static_cast<float>(images())); });
      for (int stage = stages - 1; stage >= 0; --stage) {
        for (int portion = 0; portion < network_.portions(stage); ++portion) {
          network_.backward(stage, portion, weights, gradients_);
        }
      }
      update_ns_ = time_ns([&] { update(); });
    });
  }

  void measure_alone(StepTimes& times) {
    const float* const weights = state_[step_ % 2].weights;
    for (int layer = 0; layer < static_cast<int>(run_.spec.layers.size()); ++layer) {
      const int portions = network_.portions(run_.network.stage_of(layer));
      std::vector<std::vector<KernelTime>> samples;
      for (int i = 0; i <= kRepetitions; ++i) {
        reset();
        for (int k = 0; k < portions; ++k) network_.forward_layer(layer, k, weights);
        for (int k = 0; k < portions; ++k) network_.backward_layer(layer, k, weights, gradients_);
        if (i > 0) samples.push_back(network_.times());
      }
      for (std::size_t k = 0; k < times.kernels.size(); ++k) {
        times.kernels[k].alone_ns +=
            median_of(samples, [&](const auto& all) { return all[k].kernel_ns + all[k].view_ns; });
      }
    }
    std::vector<int64_t> updates;
    for (int i = 0; i < kRepetitions; ++i) updates.push_back(time_ns([&] { update(); }));
    times.update_alone_ns = median(updates);
    times.peak_gflops = fma_peak_gflops();
    times.peak_gbps = memory_gbps();
  }

  const RunPlan& run_;
  NetworkOptions options_;
  Network network_;
  Arena arena_, memory_;
  float* gradients_ = nullptr;
  StateArrays state_[2];
  std::vector<float> images_;
  std::vector<uint8_t> labels_;
  uint32_t step_ = 0;
  int64_t loss_ns_ = 0, update_ns_ = 0;  // of the last step
};

// Bytes of the tensors that a kernel must read and write at least, each once, for all images.
int64_t bytes_of(const KernelPlan& kernel, const RunPlan& run) {
  const std::vector<ImageShape> shapes = activation_shapes(run.spec);
  const int64_t images = run.config.batch_size, size = size_of(run.network.type);
  for (int i = 0; i < static_cast<int>(run.spec.layers.size()); ++i) {
    const LayerSpec& layer = run.spec.layers[i];
    if (layer.name != kernel.layer) continue;
    int64_t weights = 0;
    for (const ParameterPlan& parameter : run.network.parameters) {
      if (parameter.layer == i) weights += parameter.layout.elements() * static_cast<int64_t>(sizeof(float));
    }
    const int64_t src = shapes[input_of(run.spec, i)].pixels() * images * size;
    const int64_t dst = shapes[i + 1].pixels() * images * size;
    const int64_t addend = layer.addend == kNoActivation ? 0 : dst;
    if (kernel.pass == kForward) return src + addend + dst + weights;
    if (kernel.pass == kReluBackward || kernel.pass == kJoin) return 3 * dst;
    // Batch norm's backward reads its input, and its output where a ReLU masks by it, and writes one or two
    // gradients.
    if (layer.kind == LayerKind::kBatchNorm) return 3 * dst + (layer.relu ? dst : 0) + addend;
    return src + dst + weights;
  }
  return 0;
}

// Floating-point operations of a kernel on all images; 0 where nobody counts them.
int64_t flops_of(const KernelPlan& kernel, const RunPlan& run, const std::vector<NetworkCost>& costs) {
  for (std::size_t i = 0; i < run.spec.layers.size(); ++i) {
    const LayerSpec& layer = run.spec.layers[i];
    const bool multiplies = layer.kind == LayerKind::kConvolution || layer.kind == LayerKind::kLinear;
    if (layer.name == kernel.layer && multiplies && kernel.pass != kReluBackward && kernel.pass != kJoin) {
      return costs[i].flops * run.config.batch_size;
    }
  }
  return 0;
}

// Of the direct algorithms' operations, though Winograd needs fewer.
double step_gflops(const RunPlan& run, const StepTimes& times, const std::vector<NetworkCost>& costs) {
  int64_t flops = 0;
  for (const KernelPlan& kernel : run.network.kernels) flops += flops_of(kernel, run, costs);
  return static_cast<double>(flops) / static_cast<double>(times.step_ns);
}

void print_text(const RunPlan& run, const StepTimes& times, int64_t alone_ns) {
  const std::vector<NetworkCost> costs = layer_costs(run.spec);
  fmt::print("{}, {}, {} images, {} thread{}, {}, {}; milliseconds, medians\n", run.spec.name,
             run.config.precision, run.config.batch_size, run.config.threads_per_worker,
             run.config.threads_per_worker == 1 ? "" : "s", run.network.library, run.network.isa);
  fmt::print("{:<24} {:<17} {:>9} {:>7} {:>9} {:>9} {:>6}  {:<28} {}\n", "layer", "pass", "ms", "view",
             "alone", "GFLOP/s", "share", "kernel", "weights");
  const auto row = [&](const std::string& layer, const std::string& pass, int64_t ns, int64_t view_ns,
                       int64_t kernel_alone_ns, int64_t flops, const std::string& kernel,
                       const std::string& weights) {
    const std::string speed =
        flops > 0 && ns > 0 ? fmt::format("{:.1f}", static_cast<double>(flops) / static_cast<double>(ns))
                            : "-";
    fmt::print("{:<24} {:<17} {:>9.3f} {:>7.3f} {:>9.3f} {:>9} {:>5.1f}%  {:<28} {}\n", layer, pass, ms(ns),
               ms(view_ns), ms(kernel_alone_ns), speed,
               100.0 * static_cast<double>(ns + view_ns) / static_cast<double>(times.step_ns), kernel,
               weights);
  };
  for (std::size_t k = 0; k < times.kernels.size(); ++k) {
    const KernelPlan& plan = run.network.kernels[k];
    const KernelTimes& kernel = times.kernels[k];
    row(plan.layer, plan.pass, kernel.in_step_ns, kernel.view_ns, kernel.alone_ns, flops_of(plan, run, costs),
        plan.implementation, plan.weights);
  }
  row("(loss)", "", times.loss_ns, 0, times.loss_ns, 0, "softmax cross-entropy", "");
  row("(update)", "", times.update_ns, 0, times.update_alone_ns, 0, run.config.optimizer, "");
  int64_t views = 0;
  for (const KernelTimes& kernel : times.kernels) views += kernel.view_ns;
  fmt::print("step {:.3f} ms, sum of its parts alone {:.3f} ms: {:.3f} times; views {:.3f} ms\n",
             ms(times.step_ns), ms(alone_ns),
             static_cast<double>(times.step_ns) / static_cast<double>(alone_ns), ms(views));
  fmt::print(
      "{:.0f} GFLOP/s of the step, direct operations counted; a core's fp32 peak {:.0f} GFLOP/s, its memory "
      "{:.1f} GB/s\n",
      step_gflops(run, times, costs), times.peak_gflops, times.peak_gbps);
}

void print_json(const RunPlan& run, const StepTimes& times, int64_t alone_ns) {
  const std::vector<NetworkCost> costs = layer_costs(run.spec);
  for (std::size_t k = 0; k < times.kernels.size(); ++k) {
    const KernelPlan& plan = run.network.kernels[k];
    const KernelTimes& kernel = times.kernels[k];
    ordered_json json{{"layer", plan.layer},
                      {"pass", plan.pass},
                      {"ms", ms(kernel.in_step_ns)},
                      {"view_ms", ms(kernel.view_ns)},
                      {"alone_ms", ms(kernel.alone_ns)},
                      {"share", static_cast<double>(kernel.in_step_ns + kernel.view_ns) /
                                    static_cast<double>(times.step_ns)},
                      {"gbytes_per_s", static_cast<double>(bytes_of(plan, run)) /
                                           static_cast<double>(std::max<int64_t>(kernel.in_step_ns, 1))},
                      {"flop_per_byte", static_cast<double>(flops_of(plan, run, costs)) /
                                            static_cast<double>(std::max<int64_t>(bytes_of(plan, run), 1))},
                      {"algorithm", plan.implementation},
                      {"layout", plan.weights}};
    if (const int64_t flops = flops_of(plan, run, costs); flops > 0) {
      json["gflops"] =
          static_cast<double>(flops) / static_cast<double>(std::max<int64_t>(kernel.in_step_ns, 1));
    }
    fmt::print("{}\n", json.dump());
  }
  const ordered_json json{
      {"model", run.spec.name},
      {"precision", run.config.precision},
      {"batch", run.config.batch_size},
      {"threads", run.config.threads_per_worker},
      {"peak_gflops", times.peak_gflops},
      {"peak_gbps", times.peak_gbps},
      {"step_gflops", step_gflops(run, times, costs)},
      {"step_ms", ms(times.step_ns)},
      {"loss_ms", ms(times.loss_ns)},
      {"update_ms", ms(times.update_ns)},
      {"update_alone_ms", ms(times.update_alone_ns)},
      {"parts_alone_ms", ms(alone_ns)},
      {"ratio_to_parts", static_cast<double>(times.step_ns) / static_cast<double>(alone_ns)}};
  fmt::print("{}\n", json.dump());
}

}  // namespace

int64_t measure_forward_backward(const RunPlan& run, int64_t steps) {
  return LayerBench(run).measure_forward_backward(steps);
}

int bench_layers(const BenchLayersOptions& options) {
  const Machine machine = Machine::this_machine();
  const Job job = plan_job(options.config, machine,
                           describe_synthetic(bench_image(options.data_shape, options.config.model), 10,
                                              options.config.batch_size, 0),
                           true);
  if (!options.json) {
    for (const std::string& warning : job.warnings) fmt::print("warning: {}\n", warning);
  }
  const std::vector<std::string> answers =
      run_ranks(machine, job.placement, {.body = [&](int) {
                  return nlohmann::json(LayerBench(job.run).measure(*job.run.config.steps)).dump();
                }});
  const auto times = nlohmann::json::parse(answers.front()).get<StepTimes>();
  const int64_t alone_ns =
      std::accumulate(times.kernels.begin(), times.kernels.end(), times.loss_ns + times.update_alone_ns,
                      [](int64_t sum, const KernelTimes& kernel) { return sum + kernel.alone_ns; });
  options.json ? print_json(job.run, times, alone_ns) : print_text(job.run, times, alone_ns);
  return 0;
}

}  // namespace annulus
