// Whole training runs with ranks as threads over one real segment, against a reference in double precision
// that knows neither buckets nor shards nor ranks: plain loops forward, central differences for gradients,
// SGD by its definition.
#include "runtime/worker.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>
#include <random>
#include <thread>

#include "runtime/checksum.h"
#include "runtime/initial_weights.h"
#include "tests/collectives/tree_domains.h"
#include "tests/kernels/reference_network.h"

namespace annulus {
namespace {

constexpr int kClasses = 3;

struct Images {
  std::vector<uint8_t> train, train_labels, test, test_labels;
};

NetworkSpec tiny_mlp() {
  return {.name = "tiny mlp",
          .input = {1, 4, 4},
          .classes = kClasses,
          .layers = {{.kind = LayerKind::kLinear, .name = "fc1", .out = 9, .relu = true},
                     {.kind = LayerKind::kLinear, .name = "fc2", .out = kClasses}}};
}

NetworkSpec tiny_cnn() {
  return {.name = "tiny cnn",
          .input = {1, 6, 6},
          .classes = kClasses,
          .layers = {{.kind = LayerKind::kConvolution, .name = "conv1", .out = 5, .kernel = 3, .relu = true},
                     {.kind = LayerKind::kMaxPool, .name = "pool1", .kernel = 2},
                     {.kind = LayerKind::kLinear, .name = "fc1", .out = kClasses}}};
}

TrainConfig config_of(int workers, int64_t shards, int64_t steps) {
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
    for (int rank = 0; rank < run_.config.workers; ++rank) {
      while (segment_.rank(rank).state != RankState::kFinished && header.wait.abort == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
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
    return weights_checksum(run_.network, run_.buckets, segment_.weights(committed() % 2));
  }
  // All parameters after the last committed step, row-major.
  std::vector<std::vector<float>> weights() const {
    std::vector<std::vector<float>> all;
    for (std::size_t i = 0; i < run_.network.parameters.size(); ++i) {
      const TensorLayout& layout = run_.network.parameters[i].layout;
      all.emplace_back(layout.elements());
      to_plain(layout, segment_.weights(committed() % 2) + run_.buckets.offsets[i], all.back().data());
    }
    return all;
  }

 private:
  static RunPlan plan(const NetworkSpec& spec, const TrainConfig& config, int domains) {
    DatasetInfo dataset = describe_synthetic(spec.input, kClasses, 31, 17);
    dataset.normalization = {.mean = {0.5f}, .stddev = {0.25f}};
    NetworkPlan network = Network(spec, nominal_shard(config), 1).plan();
    BucketPlan buckets = plan_buckets(network, 1000);  // several, though the model is tiny
    return {.config = config,
            .dataset = dataset,
            .spec = spec,
            .network = std::move(network),
            .buckets = std::move(buckets),
            .schedule = StepSchedule(config, dataset.train_count),
            .algorithm = algorithm_of(config),
            .domains = tree_domains(config.workers, config.shards, domains),
            .waiting = {.spin_ns = 0, .deadline_ns = 60'000'000'000}};
  }

  RunPlan run_;
  SegmentInputs inputs_;
  Segment segment_;
};

// The same run, without any of what is tested.
class Reference {
 public:
  explicit Reference(const Training& training)
      : run_(training.run()), data_(training.segment().data(run_.dataset)), network_(run_.spec) {
    for (std::size_t i = 0; i < run_.network.parameters.size(); ++i) {
      ParameterPlan plain = run_.network.parameters[i];
      plain.layout = TensorLayout::plain(std::span(plain.layout.dims).first(plain.layout.dims_count));
      std::vector<float> values(plain.layout.elements());
      draw_initial_weights(plain, run_.config.seed, i, values);
      weights.emplace_back(values.begin(), values.end());
      moments_.emplace_back(values.size());
    }
  }

  void step(int64_t step) {
    const StepImages images = run_.schedule.images(step);
    const Permutation order(run_.config.seed, images.epoch, run_.dataset.train_count);
    Doubles input;
    std::vector<uint8_t> labels;
    for (int64_t i = images.begin; i < images.begin + images.count; ++i) {
      append_image(data_.train_images, order(i), input);
      labels.push_back(data_.train_labels[order(i)]);
    }
    const auto loss_now = [&] { return network_.loss(weights, input, labels, 1.0 / images.count); };
    losses.push_back(loss_now());

    std::vector<Doubles> gradients;
    for (Doubles& parameter : weights) {
      gradients.emplace_back();
      for (double& w : parameter) {
        const double before = w, h = 1e-5;
        w = before + h;
        const double above = loss_now();
        w = before - h;
        gradients.back().push_back((above - loss_now()) / (2 * h));
        w = before;
      }
    }
    const double rate = run_.schedule.learning_rate(step), momentum = run_.config.momentum;
    for (std::size_t p = 0; p < weights.size(); ++p) {
      for (std::size_t i = 0; i < weights[p].size(); ++i) {
        double direction = gradients[p][i] + run_.config.weight_decay * weights[p][i];
        if (run_.config.optimizer != "sgd") {
          moments_[p][i] = momentum * moments_[p][i] + direction;
          direction =
              run_.config.optimizer == "nesterov" ? direction + momentum * moments_[p][i] : moments_[p][i];
        }
        weights[p][i] -= rate * direction;
      }
    }
  }

  // Test images that the weights now put into their class, and their mean loss.
  std::pair<int64_t, double> evaluate() const {
    Doubles input;
    const int images = static_cast<int>(data_.test_labels.size());
    for (int i = 0; i < images; ++i) append_image(data_.test_images, i, input);
    const Doubles logits = network_.logits(weights, input, images);
    int64_t correct = 0;
    for (int i = 0; i < images; ++i) {
      const double* row = &logits[i * kClasses];
      correct += std::max_element(row, row + kClasses) - row == data_.test_labels[i];
    }
    const std::vector<uint8_t> labels(data_.test_labels.begin(), data_.test_labels.end());
    return {correct, network_.loss(weights, input, labels, 1.0 / images)};
  }

  std::vector<Doubles> weights;
  Doubles losses;  // of each step

 private:
  void append_image(std::span<const uint8_t> bytes, int64_t image, Doubles& input) const {
    const int64_t pixels = run_.dataset.shape.pixels();
    for (int64_t i = 0; i < pixels; ++i) input.push_back((bytes[image * pixels + i] / 255.0 - 0.5) / 0.25);
  }

  const RunPlan& run_;
  DatasetView data_;
  ReferenceNetwork network_;
  std::vector<Doubles> moments_;
};

struct Case {
  const char* name;
  NetworkSpec (*spec)();
  int workers;
  int64_t shards;
  const char* optimizer;
  const char* algorithm;
  int domains = 1;
};

class TrainingOf : public testing::TestWithParam<Case> {};

// Eight steps of single precision on weights and gradients around one: 2^-24 for each of some ten roundings
// in a row a step, and the rate keeps errors from growing. Central differences add 1e-9.
constexpr double kBound = 5e-6;
constexpr int kSteps = 8;

TEST_P(TrainingOf, follows_the_reference_in_weights_loss_and_accuracy) {
  TrainConfig config = config_of(GetParam().workers, GetParam().shards, kSteps);
  config.optimizer = GetParam().optimizer;
  config.algorithm = GetParam().algorithm;
  Training training(GetParam().spec(), config, GetParam().domains);
  Reference reference(training);
  ASSERT_GE(training.run().buckets.extents.size(), 2U);

  ASSERT_EQ(training.train(), "");
  ASSERT_EQ(training.committed(), static_cast<uint32_t>(kSteps));
  for (int64_t step = 1; step <= kSteps; ++step) reference.step(step);

  const auto weights = training.weights();
  double worst = 0, moved = 0;
  for (std::size_t p = 0; p < weights.size(); ++p) {
    for (std::size_t i = 0; i < weights[p].size(); ++i) {
      worst = std::max(worst, std::abs(weights[p][i] - reference.weights[p][i]));
      moved = std::max(moved, std::abs(reference.weights[p][i]));
    }
  }
  EXPECT_LT(worst, kBound) << "largest weight " << moved;

  for (int64_t step = 1; step <= kSteps; ++step) {
    LossSum sum;
    for (int rank = 0; rank < config.workers; ++rank) {
      StepRecord record;
      ASSERT_TRUE(training.segment().rank(rank).steps.read(step - 1, record));
      EXPECT_EQ(record.step, static_cast<uint64_t>(step));
      EXPECT_EQ(record.compute_ns + record.comm_ns + record.sync_ns, record.end_ns - record.begin_ns);
      EXPECT_GE(record.hidden_ns, 0);
      sum += {.loss_units = record.loss_units, .images = record.images, .not_finite = record.not_finite};
    }
    EXPECT_EQ(sum.images, training.run().schedule.images(step).count);
    EXPECT_NEAR(sum.mean_loss(), reference.losses[step - 1], kBound) << "step " << step;
  }

  LossSum tested;
  for (int rank = 0; rank < config.workers; ++rank) {
    // Epochs are three steps: two whole ones, and the one in which the run ends.
    ASSERT_EQ(training.segment().rank(rank).evaluations.written(), 3U);
    EvalRecord record;
    ASSERT_TRUE(training.segment().rank(rank).evaluations.read(2, record));
    EXPECT_EQ(record.epoch, 3U);
    EXPECT_EQ(record.step, static_cast<uint64_t>(kSteps));
    tested += {.loss_units = record.loss_units, .correct = record.correct, .images = record.images};
  }
  const auto [correct, loss] = reference.evaluate();
  EXPECT_EQ(tested.images, 17);
  EXPECT_EQ(tested.correct, correct);
  EXPECT_NEAR(tested.mean_loss(), loss, kBound);
}

INSTANTIATE_TEST_SUITE_P(
    AllWays, TrainingOf,
    testing::Values(Case{"mlp_one_rank", tiny_mlp, 1, 1, "momentum", "direct"},
                    Case{"mlp_one_rank_many_shards", tiny_mlp, 1, 5, "sgd", "direct"},
                    Case{"mlp_two_ranks", tiny_mlp, 2, 2, "nesterov", "direct"},
                    Case{"mlp_three_ranks_uneven_shards", tiny_mlp, 3, 7, "momentum", "direct"},
                    // The last batch of an epoch has 7 images: five of the twelve shards are empty.
                    Case{"mlp_three_ranks_empty_shards", tiny_mlp, 3, 12, "momentum", "direct"},
                    Case{"mlp_three_ranks_ring", tiny_mlp, 3, 7, "momentum", "ring"},
                    Case{"mlp_four_ranks_hierarchical", tiny_mlp, 4, 8, "momentum", "hierarchical", 2},
                    Case{"cnn_one_rank", tiny_cnn, 1, 1, "momentum", "direct"},
                    Case{"cnn_three_ranks", tiny_cnn, 3, 3, "nesterov", "direct"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Training, has_the_same_bits_on_any_number_of_ranks_with_equal_shards) {
  uint64_t expected = 0;
  for (const int workers : {1, 2, 3, 4}) {
    Training training(tiny_mlp(), config_of(workers, 12, 9));
    ASSERT_EQ(training.train(), "");
    if (workers == 1) expected = training.checksum();
    EXPECT_EQ(training.checksum(), expected) << workers << " ranks";
  }
}

// Images so large that a portion of the trunk is one of them.
NetworkSpec large_images() {
  return {.name = "large images",
          .input = {1, 150, 150},
          .classes = kClasses,
          .layers = {{.kind = LayerKind::kConvolution, .name = "conv1", .out = 5, .kernel = 3, .relu = true},
                     {.kind = LayerKind::kMaxPool, .name = "pool1", .kernel = 15},
                     {.kind = LayerKind::kLinear, .name = "fc1", .out = kClasses}}};
}

TEST(Training, in_portions_has_the_same_bits_on_any_number_of_ranks_with_equal_shards) {
  uint64_t expected = 0;
  for (const int workers : {1, 2, 3, 4}) {
    Training training(large_images(), config_of(workers, 5, 9));
    ASSERT_EQ(training.run().network.stages[0], (StagePlan{0, 2, 1}));
    ASSERT_EQ(training.run().network.batch, 3);
    ASSERT_EQ(training.train(), "");
    if (workers == 1) expected = training.checksum();
    EXPECT_EQ(training.checksum(), expected) << workers << " ranks";
  }
}

// Twelve portions in one shard, and one in each of twelve shards: the same sums in another order.
TEST(Training, in_portions_agrees_with_training_in_shards) {
  Training portions(large_images(), config_of(1, 1, kSteps)),
      shards(large_images(), config_of(1, 12, kSteps));
  ASSERT_EQ(portions.train(), "");
  ASSERT_EQ(shards.train(), "");
  const auto a = portions.weights(), b = shards.weights();
  for (std::size_t p = 0; p < a.size(); ++p) {
    for (std::size_t i = 0; i < a[p].size(); ++i) ASSERT_NEAR(a[p][i], b[p][i], kBound);
  }
}

TEST(Training, with_hierarchical_has_the_bits_of_direct) {
  TrainConfig config = config_of(4, 12, 9);
  Training direct(tiny_mlp(), config);
  ASSERT_EQ(direct.train(), "");
  config.algorithm = "hierarchical";
  for (const int domains : {1, 2, 4}) {
    Training hierarchical(tiny_mlp(), config, domains);
    ASSERT_EQ(hierarchical.train(), "");
    EXPECT_EQ(hierarchical.checksum(), direct.checksum()) << domains << " domains";
  }
}

TEST(Training, with_ring_has_the_same_bits_from_run_to_run) {
  TrainConfig config = config_of(3, 12, 9);
  config.algorithm = "ring";
  Training first(tiny_mlp(), config), second(tiny_mlp(), config);
  ASSERT_EQ(first.train(), "");
  ASSERT_EQ(second.train(), "");
  EXPECT_EQ(first.checksum(), second.checksum());
}

TEST(Training, that_is_asked_to_stop_ends_on_all_ranks_with_the_same_step) {
  Training training(tiny_mlp(), config_of(3, 3, 1'000'000));
  std::thread launcher([&] {
    while (training.segment().rank(2).steps.written() < 5) std::this_thread::yield();
    training.segment().header().stop_requested = 1;
  });
  ASSERT_EQ(training.train(), "");
  launcher.join();
  const uint32_t last = training.segment().header().last_step;
  EXPECT_GE(last, 5U);
  EXPECT_LT(last, 1'000'000U);
  EXPECT_EQ(training.committed(), last);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(training.segment().rank(rank).steps.written(), last);
    for (int bucket = 0; bucket < training.segment().versions().buckets(); ++bucket) {
      EXPECT_EQ(training.segment().versions().load(rank, bucket), last);
    }
  }
}

TEST(Training, writes_every_byte_of_both_generations_even_where_nothing_changes) {
  TrainConfig config = config_of(2, 2, 2);
  config.learning_rate = 1e-30;  // too small to change a weight
  config.schedule = "constant";
  Training training(tiny_mlp(), config);
  // Moments of generation 0 start as zeros; generation 1 as junk, which must be gone after the first step.
  std::fill_n(training.segment().weights(1), training.run().buckets.elements, 1e30f);
  ASSERT_EQ(training.train(), "");
  for (int64_t i = 0; i < training.run().buckets.elements; ++i) {
    ASSERT_EQ(training.segment().weights(0)[i], training.segment().weights(1)[i]) << "element " << i;
  }
}

TEST(Training, with_other_kernels_than_planned_is_refused) {
  Training training(tiny_mlp(), config_of(1, 1, 2));
  RunPlan other = training.run();
  other.spec = tiny_cnn();
  EXPECT_NE(training.train(other).find("plans other kernels"), std::string::npos);
}

TEST(Training, that_is_aborted_unwinds_every_rank) {
  Training training(tiny_mlp(), config_of(3, 3, 1'000'000));
  std::thread launcher([&] {
    while (training.segment().rank(0).steps.written() < 3) std::this_thread::yield();
    training.segment().header().wait.abort = 1;
    training.segment().wake_all();
  });
  EXPECT_EQ(training.train(), StepAborted().what());
  launcher.join();
  EXPECT_GE(training.committed(), 2U);
}

}  // namespace
}  // namespace annulus
