// A training run with ranks as threads over one real segment, and networks small enough for plain loops.
#pragma once

#include <algorithm>
#include <chrono>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "runtime/checksum.h"
#include "runtime/worker.h"
#include "tests/collectives/tree_domains.h"

namespace annulus {

inline constexpr int kClasses = 3;
inline NetworkSpec tiny_mlp() {
  return {.name = "tiny mlp",
          .input = {1, 4, 4},
          .classes = kClasses,
          .layers = {{.kind = LayerKind::kLinear, .name = "fc1", .out = 9, .relu = true},
                     {.kind = LayerKind::kLinear, .name = "fc2", .out = kClasses}}};
}

inline NetworkSpec tiny_cnn() {
  return {.name = "tiny cnn",
          .input = {1, 6, 6},
          .classes = kClasses,
          .layers = {{.kind = LayerKind::kConvolution, .name = "conv1", .out = 5, .kernel = 3, .relu = true},
                     {.kind = LayerKind::kMaxPool, .name = "pool1", .kernel = 2},
                     {.kind = LayerKind::kLinear, .name = "fc1", .out = kClasses}}};
}

// Batch norm before and behind a shortcut, strides, channels that fill no block.
inline NetworkSpec tiny_resnet() {
  return {.name = "tiny resnet",
          .input = {1, 6, 6},
          .classes = kClasses,
          .layers = {{.kind = LayerKind::kConvolution,
                      .name = "conv1",
                      .out = 4,
                      .kernel = 3,
                      .stride = 2,
                      .padding = 1,
                      .bias = false},
                     {.kind = LayerKind::kBatchNorm, .name = "bn1", .relu = true},
                     {.kind = LayerKind::kConvolution,
                      .name = "conv2",
                      .out = 4,
                      .kernel = 3,
                      .padding = 1,
                      .bias = false},
                     {.kind = LayerKind::kBatchNorm, .name = "bn2", .relu = true, .addend = 2},
                     {.kind = LayerKind::kLinear, .name = "fc1", .out = kClasses}}};
}

// Images so large that a portion of the trunk is one of them.
inline NetworkSpec large_images() {
  return {.name = "large images",
          .input = {1, 150, 150},
          .classes = kClasses,
          .layers = {{.kind = LayerKind::kConvolution, .name = "conv1", .out = 5, .kernel = 3, .relu = true},
                     {.kind = LayerKind::kMaxPool, .name = "pool1", .kernel = 15},
                     {.kind = LayerKind::kLinear, .name = "fc1", .out = kClasses}}};
}

inline TrainConfig config_of(int workers, int64_t shards, int64_t steps) {
  TrainConfig config;
  config.workers = workers;
  config.shards = shards;
  config.steps = steps;
  config.batch_size = 12;
  config.last_batch = "keep";
  config.optimizer = "momentum";
  config.learning_rate = 0.1;
  config.weight_decay = 0.01;
  config.schedule = "cosine";
  config.seed = 3;
  return config;
}

// One run of a few steps on 31 random images (so that every third batch is a smaller one), and 17 to test on.
class Training {
 public:
  Training(const NetworkSpec& spec, const TrainConfig& config, int domains = 1)
      : run_(plan(spec, config, domains)),
        inputs_(run_.segment_inputs()),
        segment_(plan_segment(inputs_), inputs_, run_.network.hash(), [](void*, uint64_t, int) {}) {
    std::mt19937 random(11);
    const DatasetView view = segment_.data(run_.dataset);
    for (const auto& pixels : {view.train_images, view.test_images}) {
      for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random());
    }
    for (const auto& labels : {view.train_labels, view.test_labels}) {
      for (uint8_t& label : labels) label = static_cast<uint8_t>(random() % kClasses);
    }
    segment_.header().last_step = static_cast<uint32_t>(run_.schedule.steps());
  }

  // Does what the launcher and the loader do, with a thread for each rank. Returns the first failure's text.
  std::string train(const RunPlan& seen_by_workers) {
    return train(seen_by_workers, [this] {
      while (!finished() && segment_.header().wait.abort == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
  bool finished() const {
    for (int rank = 0; rank < run_.config.workers; ++rank) {
      if (segment_.rank(rank).state != RankState::kFinished) return false;
    }
    return true;
  }
  // The same with another launcher, which returns when ranks may leave.
  template <typename Launcher>
  std::string train(const RunPlan& seen_by_workers, const Launcher& launcher) {
    std::string failure;
    std::mutex failing;
    std::vector<std::thread> threads;
    for (int rank = 0; rank < run_.config.workers; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          Worker(seen_by_workers, segment_, rank, [] {}).run();
        } catch (const std::exception& error) {
          const std::lock_guard lock(failing);
          if (failure.empty()) failure = error.what();
          segment_.header().wait.abort = 1;
        }
        segment_.wake_all();
      });
    }
    SegmentHeader& header = segment_.header();
    header.data_ready = 1;
    segment_.wake_all();
    launcher();
    header.dismissed = 1;
    segment_.wake_all();
    for (std::thread& thread : threads) thread.join();
    return failure;
  }
  std::string train() { return train(run_); }

  const RunPlan& run() const { return run_; }
  const Segment& segment() const { return segment_; }
  uint32_t committed() const { return segment_.versions().committed(); }
  uint64_t checksum() const {
    return weights_checksum(run_.network, run_.buckets, segment_.weights_after(committed()));
  }
  // All parameters after the last committed step, row-major.
  std::vector<std::vector<float>> weights() const {
    std::vector<std::vector<float>> all;
    for (std::size_t i = 0; i < run_.network.parameters.size(); ++i) {
      const TensorLayout& layout = run_.network.parameters[i].layout;
      all.emplace_back(layout.elements());
      to_plain(layout, segment_.weights_after(committed()) + run_.buckets.offsets[i], all.back().data());
    }
    return all;
  }

 private:
  static RunPlan plan(const NetworkSpec& spec, const TrainConfig& config, int domains) {
    DatasetInfo dataset = describe_synthetic(spec.input, kClasses, 31, 17);
    dataset.normalization = {.mean = {0.5f}, .stddev = {0.25f}};
    dataset.flip_allowed = true;
    NetworkPlan network = Network(spec, network_options(config, spec)).plan();
    BucketPlan buckets = plan_buckets(network, 1000);  // several, though the model is tiny
    return {.config = config,
            .dataset = dataset,
            .spec = spec,
            .network = std::move(network),
            .buckets = std::move(buckets),
            .schedule = StepSchedule(config, dataset.train_count),
            .algorithm = algorithm_of(config),
            .domains = tree_domains(config.workers, config.shards, domains),
            .waiting = {.spin_ns = 0, .deadline_ns = 60'000'000'000},
            .comm_cpus = std::vector<int>(config.comm_thread == "sibling" ? config.workers : 0, -1)};
  }

  RunPlan run_;
  SegmentInputs inputs_;
  Segment segment_;
};

}  // namespace annulus
