// Whole training runs with ranks as threads over one real segment, against a reference in double precision
// that knows neither buckets nor shards nor ranks: plain loops forward, central differences for gradients,
// SGD by its definition.
#include "runtime/worker.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <set>
#include <thread>
#include <tuple>

#include "kernels/image_batch.h"
#include "kernels/squared_norm.h"
#include "runtime/arena.h"
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

// Images so large that a portion of the trunk is one of them.
NetworkSpec large_images() {
  return {.name = "large images",
          .input = {1, 150, 150},
          .classes = kClasses,
          .layers = {{.kind = LayerKind::kConvolution, .name = "conv1", .out = 5, .kernel = 3, .relu = true},
                     {.kind = LayerKind::kMaxPool, .name = "pool1", .kernel = 15},
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
      for (std::vector<Doubles>& moments : moments_) moments.emplace_back(values.size());
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
    for (std::size_t p = 0; p < weights.size(); ++p) {
      for (std::size_t i = 0; i < weights[p].size(); ++i) {
        update(step, gradients[p][i], weights[p][i], moments_[0][p][i], moments_[1][p][i]);
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
  void update(int64_t step, double gradient, double& weight, double& first, double& second) const {
    const TrainConfig& config = run_.config;
    const double rate = run_.schedule.learning_rate(step), momentum = config.momentum;
    const bool decoupled = config.optimizer == "adamw";
    double direction = gradient + (decoupled ? 0 : config.weight_decay * weight);
    if (config.optimizer == "adam" || decoupled) {
      const double beta1 = config.beta1.value_or(0.9), beta2 = config.beta2.value_or(0.999);
      first = beta1 * first + (1 - beta1) * direction;
      second = beta2 * second + (1 - beta2) * direction * direction;
      const auto t = static_cast<double>(step);
      direction = first / (1 - std::pow(beta1, t)) /
                  (std::sqrt(second / (1 - std::pow(beta2, t))) + config.epsilon.value_or(1e-8));
      if (decoupled) weight -= rate * config.weight_decay * weight;
    } else if (config.optimizer != "sgd") {
      first = momentum * first + direction;
      direction = config.optimizer == "nesterov" ? direction + momentum * first : first;
    }
    weight -= rate * direction;
  }

  void append_image(std::span<const uint8_t> bytes, int64_t image, Doubles& input) const {
    const int64_t pixels = run_.dataset.shape.pixels();
    for (int64_t i = 0; i < pixels; ++i) input.push_back((bytes[image * pixels + i] / 255.0 - 0.5) / 0.25);
  }

  const RunPlan& run_;
  DatasetView data_;
  ReferenceNetwork network_;
  std::vector<Doubles> moments_[2];
};

// The same run as plain loops over whole batches on one processor, with the kernels that training uses, so
// that it has the same bits: each shard's gradient in an array of its own, their tree, one update of
// everything.
class SerialRun {
 public:
  explicit SerialRun(const Training& training)
      : run_(training.run()),
        data_(training.segment().data(run_.dataset)),
        network_(run_.spec, network_options(run_.config, run_.spec)),
        arena_(network_.plan().arena_bytes),
        labels_(nominal_shard(run_.config)) {
    network_.bind_arena(arena_.bytes());
    network_.set_parameter_offsets(run_.buckets.offsets);
    Array& initial = weights_.emplace_back(run_.buckets.elements);
    for (std::size_t i = 0; i < run_.network.parameters.size(); ++i) {
      const ParameterPlan& parameter = run_.network.parameters[i];
      const std::size_t elements = parameter.layout.padded_elements();
      draw_initial_weights(parameter, run_.config.seed, i,
                           std::span(initial.data() + run_.buckets.offsets[i], elements));
    }
    for (Array& moments : moments_) moments = Array(run_.buckets.elements);
  }

  // Step `step` computes on the weights after step - 1 - staleness, and updates those after step - 1.
  void step(int64_t step) {
    const StepImages images = run_.schedule.images(step);
    const Array& read = weights_[std::max<int64_t>(step - 1 - run_.config.staleness, 0)];
    const Array gradient = tree(images, read, 0, run_.config.shards);
    if (run_.config.clip > 0) clip(gradient);
    const OptimizerStep update(run_.config, static_cast<uint32_t>(step), run_.schedule.learning_rate(step));
    Array updated(run_.buckets.elements);
    Array new_moments[2] = {Array(run_.buckets.elements), Array(run_.buckets.elements)};
    update.apply_reference(run_.buckets.elements, gradient.data(),
                           {weights_.back().data(), {moments_[0].data(), moments_[1].data()}},
                           {updated.data(), {new_moments[0].data(), new_moments[1].data()}});
    weights_.push_back(std::move(updated));
    for (int i : {0, 1}) moments_[i] = std::move(new_moments[i]);
  }

  uint64_t checksum() const { return weights_checksum(run_.network, run_.buckets, weights_.back().data()); }
  std::vector<double> norms;  // of each step's gradient, before clipping; only with --clip

 private:
  struct Free {
    void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  class Array {  // aligned as kernels want it
   public:
    Array() = default;
    explicit Array(int64_t size) : memory_(new (std::align_val_t{64}) float[size]()), size_(size) {}
    float* data() const { return memory_.get(); }
    int64_t size() const { return size_; }

   private:
    std::unique_ptr<float[], Free> memory_;
    int64_t size_ = 0;
  };

  // Squared norms per piece, block and array, in their order.
  void clip(const Array& gradient) {
    double all = 0;
    for (int64_t block = 0; block < gradient.size(); block += kBlockElements) {
      double of_block = 0;
      for (int64_t i = block; i < block + kBlockElements; i += kPieceElements) {
        of_block += squared_norm_reference(kPieceElements, gradient.data() + i);
      }
      all += of_block;
    }
    norms.push_back(std::sqrt(all));
    const double factor = run_.config.clip / (norms.back() + 1e-6);
    for (int64_t i = 0; factor < 1 && i < gradient.size(); ++i) {
      gradient.data()[i] *= static_cast<float>(factor);
    }
  }

  Array tree(const StepImages& images, const Array& read, int64_t lo, int64_t hi) {
    if (hi - lo == 1) return of_shard(images, read, lo);
    const int64_t middle = lo + (hi - lo + 1) / 2;
    Array sum = tree(images, read, lo, middle);
    const Array right = tree(images, read, middle, hi);
    for (int64_t i = 0; i < sum.size(); ++i) sum.data()[i] += right.data()[i];
    return sum;
  }

  Array of_shard(const StepImages& images, const Array& read, int64_t shard) {
    Array gradient(run_.buckets.elements);
    const ShardRange part = deal(shard, run_.config.shards, images.count);
    if (part.count() == 0) return gradient;
    const Permutation order(run_.config.seed, images.epoch, run_.dataset.train_count);
    const int64_t pixels = run_.dataset.shape.pixels();
    std::fill(network_.input().begin(), network_.input().end(), 0.0f);
    for (int64_t i = 0; i < part.count(); ++i) {
      const uint64_t image = order(images.begin + part.begin + i);
      ImageShift shift;
      if (run_.config.augment) {
        shift = augmentation(run_.config.seed, images.epoch, image, run_.dataset.crop_padding,
                             run_.dataset.flip_allowed);
      }
      convert_image(run_.dataset.shape, run_.dataset.normalization, shift,
                    &data_.train_images[image * pixels], network_.input().data() + i * pixels);
      labels_[i] = data_.train_labels[image];
    }
    const int stages = run_.network.stage_count();
    network_.begin({.images = part.count(),
                    .share = static_cast<float>(part.count()) / static_cast<float>(images.count)});
    for (int stage = 0; stage < stages; ++stage) {
      for (int portion = 0; portion < network_.portions(stage); ++portion) {
        network_.forward(stage, portion, read.data());
      }
    }
    network_.loss({labels_.data(), static_cast<std::size_t>(part.count())}, 1.0f / images.count);
    for (int stage = stages - 1; stage >= 0; --stage) {
      for (int portion = 0; portion < network_.portions(stage); ++portion) {
        network_.backward(stage, portion, read.data(), gradient.data());
      }
    }
    return gradient;
  }

  const RunPlan& run_;
  DatasetView data_;
  Network network_;
  Arena arena_;
  std::vector<uint8_t> labels_;
  std::vector<Array> weights_;  // after each step, the initial ones first
  Array moments_[2];
};

struct Case {
  const char* name;
  NetworkSpec (*spec)();
  int workers;
  int64_t shards;
  const char* optimizer;
  const char* algorithm;
  int domains = 1;
  const char* comm_thread = "inline";
};

class TrainingOf : public testing::TestWithParam<Case> {};

// Eight steps of single precision on weights and gradients around one: 2^-24 for each of some ten roundings
// in a row a step, and the rate keeps errors from growing. Central differences add 1e-9.
constexpr double kBound = 5e-6;
constexpr int kSteps = 8;

TEST_P(TrainingOf, follows_the_reference_in_weights_loss_and_accuracy) {
  TrainConfig config = config_of(GetParam().workers, GetParam().shards, kSteps);
  config.optimizer = GetParam().optimizer;
  // Adam divides by roots of squared gradients, which are far less exact where they are close to zero.
  if (uses_adam(config)) config.epsilon = 0.01;
  config.algorithm = GetParam().algorithm;
  config.comm_thread = GetParam().comm_thread;
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
                    Case{"mlp_two_ranks_two_threads", tiny_mlp, 2, 4, "momentum", "direct", 1, "sibling"},
                    Case{"mlp_two_ranks_adam", tiny_mlp, 2, 4, "adam", "direct"},
                    Case{"mlp_three_ranks_adamw_ring", tiny_mlp, 3, 6, "adamw", "ring"},
                    Case{"cnn_one_rank", tiny_cnn, 1, 1, "momentum", "direct"},
                    Case{"cnn_three_ranks", tiny_cnn, 3, 3, "nesterov", "direct"}),
    [](const auto& info) { return std::string(info.param.name); });

// Nine steps of eight to twelve images, three of them an epoch's last and smaller batch.
TEST(Training, has_the_bits_of_a_serial_run_with_and_without_delay) {
  for (const auto& [workers, shards, optimizer] : {std::tuple{1, 1, "sgd"},
                                                   {1, 5, "momentum"},
                                                   {2, 7, "nesterov"},
                                                   {3, 12, "momentum"},
                                                   {2, 4, "adam"},
                                                   {3, 6, "adamw"}}) {
    std::set<uint64_t> seen;
    for (const auto& [staleness, comm_thread] :
         {std::pair{0, "inline"}, {1, "inline"}, {0, "sibling"}, {1, "sibling"}}) {
      TrainConfig config = config_of(workers, shards, 9);
      config.comm_thread = comm_thread;
      config.optimizer = optimizer;
      config.staleness = staleness;
      Training training(tiny_mlp(), config);
      SerialRun serial(training);
      for (int64_t step = 1; step <= 9; ++step) serial.step(step);
      ASSERT_EQ(training.train(), "");
      EXPECT_EQ(training.committed(), 9U);
      EXPECT_EQ(training.checksum(), serial.checksum())
          << workers << " ranks, " << shards << " shards, staleness " << staleness << ", " << comm_thread;
      seen.insert(serial.checksum());
    }
    EXPECT_EQ(seen.size(), 2U) << "staleness has no effect";
  }
}

TEST(Training, with_delay_has_the_bits_of_a_serial_run_whatever_the_network_and_algorithm) {
  for (NetworkSpec (*const spec)() : {tiny_mlp, tiny_cnn, large_images}) {
    for (const char* algorithm : {"direct", "hierarchical", "ring"}) {
      TrainConfig config = config_of(2, 4, 7);
      config.algorithm = algorithm;
      config.staleness = 1;
      Training training(spec(), config);
      SerialRun serial(training);
      for (int64_t step = 1; step <= 7; ++step) serial.step(step);
      ASSERT_EQ(training.train(), "");
      EXPECT_EQ(training.checksum(), serial.checksum()) << training.run().spec.name << ", " << algorithm;
    }
  }
}

TEST(Training, augments_each_image_by_itself_anew_in_every_epoch) {
  std::set<uint64_t> seen;
  for (const bool augment : {false, true}) {
    TrainConfig config = config_of(2, 4, 9);
    config.augment = augment;
    Training training(tiny_cnn(), config);
    SerialRun serial(training);
    for (int64_t step = 1; step <= 9; ++step) serial.step(step);
    ASSERT_EQ(training.train(), "");
    EXPECT_EQ(training.checksum(), serial.checksum());
    seen.insert(training.checksum());
  }
  EXPECT_EQ(seen.size(), 2U);
}

TEST(Training, evaluates_as_often_as_asked_for) {
  for (const auto& [every, expected] : {std::pair{2, std::vector<int>{2, 4, 5}}, {0, {5}}}) {
    TrainConfig config = config_of(2, 2, 13);  // three steps an epoch
    config.eval_every = every;
    Training training(tiny_mlp(), config);
    ASSERT_EQ(training.train(), "");
    std::vector<int> epochs;
    const EvalRing& evaluations = training.segment().rank(1).evaluations;
    for (uint64_t i = 0; i < evaluations.written(); ++i) {
      EvalRecord record;
      ASSERT_TRUE(evaluations.read(i, record));
      epochs.push_back(static_cast<int>(record.epoch));
    }
    EXPECT_EQ(epochs, expected);
  }
}

// Gradients have norms on both sides of the limit, so that some steps are clipped and others are not.
TEST(Training, with_clipping_has_the_bits_of_a_serial_run) {
  for (const int staleness : {0, 1}) {
    for (const char* comm_thread : {"inline", "sibling"}) {
      for (const char* optimizer : {"momentum", "adamw"}) {
        TrainConfig config = config_of(3, 6, 9);
        config.optimizer = optimizer;
        config.staleness = staleness;
        config.comm_thread = comm_thread;
        config.clip = 0.6;
        Training training(tiny_mlp(), config);
        SerialRun serial(training);
        for (int64_t step = 1; step <= 9; ++step) serial.step(step);
        const auto [least, most] = std::minmax_element(serial.norms.begin(), serial.norms.end());
        ASSERT_LT(*least, config.clip);
        ASSERT_GT(*most, config.clip);
        ASSERT_EQ(training.train(), "");
        EXPECT_EQ(training.checksum(), serial.checksum())
            << optimizer << ", staleness " << staleness << ", " << comm_thread;
        for (int rank = 0; rank < 3; ++rank) {
          for (uint64_t step = 1; step <= 9; ++step) {
            StepRecord record;
            ASSERT_TRUE(training.segment().rank(rank).steps.read(step - 1, record));
            // A delayed update is finished with its step only where an evaluation follows.
            const bool evaluated = training.run().schedule.images(static_cast<int64_t>(step)).evaluated;
            const uint64_t finished = staleness == 0 || evaluated ? step : step - 1;
            EXPECT_EQ(record.gradient_norm, finished == 0 ? 0 : serial.norms[finished - 1]) << step;
          }
        }
      }
    }
  }
}

TEST(Training, with_everything_at_once_has_the_same_bits_on_any_number_of_ranks) {
  uint64_t expected = 0;
  for (const int workers : {1, 2, 3, 4}) {
    for (const char* algorithm : {"direct", "hierarchical"}) {
      TrainConfig config;
      config.accumulate = 12 / workers;
      config = resolved(config, workers);
      config.batch_size = 12;
      config.steps = 9;
      config.optimizer = "adamw";
      config.learning_rate = 0.01;
      config.weight_decay = 0.05;
      config.warmup = 4;
      config.clip = 0.5;
      config.augment = true;
      config.algorithm = algorithm;
      Training training(tiny_cnn(), config);
      ASSERT_EQ(training.train(), "");
      if (expected == 0) expected = training.checksum();
      EXPECT_EQ(training.checksum(), expected) << workers << " ranks, " << algorithm;
    }
  }
}

// The data set is smaller than the batch, so that most shards are empty from the first step on.
TEST(Training, with_delay_and_empty_first_shards_has_the_bits_of_a_serial_run) {
  for (const int staleness : {0, 1}) {
    TrainConfig config = config_of(3, 48, 4);
    config.batch_size = 64;
    config.staleness = staleness;
    Training training(tiny_mlp(), config);
    ASSERT_EQ(training.run().schedule.images(1).count, 31);
    SerialRun serial(training);
    for (int64_t step = 1; step <= 4; ++step) serial.step(step);
    ASSERT_EQ(training.train(), "");
    EXPECT_EQ(training.checksum(), serial.checksum()) << "staleness " << staleness;
  }
}

// Evaluations are of all updates: those of a run with delay equal the last ones of runs that end there.
TEST(Training, with_delay_evaluates_what_all_updates_have_made) {
  TrainConfig config = config_of(2, 4, 7);
  config.staleness = 1;
  config.schedule = "constant";
  Training training(tiny_mlp(), config);
  ASSERT_EQ(training.train(), "");
  for (uint64_t evaluation = 0; evaluation < 3; ++evaluation) {
    for (int rank = 0; rank < 2; ++rank) {
      EvalRecord record, expected;
      ASSERT_TRUE(training.segment().rank(rank).evaluations.read(evaluation, record));
      config.steps = static_cast<int64_t>(record.step);
      Training part(tiny_mlp(), config);
      ASSERT_EQ(part.train(), "");
      ASSERT_EQ(part.segment().rank(rank).evaluations.written(), evaluation + 1);
      ASSERT_TRUE(part.segment().rank(rank).evaluations.read(evaluation, expected));
      EXPECT_EQ(record.step, expected.step);
      EXPECT_EQ(record.loss_units, expected.loss_units);
      EXPECT_EQ(record.correct, expected.correct);
    }
  }
}

TEST(Training, has_the_same_bits_on_any_number_of_ranks_with_equal_shards) {
  uint64_t expected = 0;
  for (const int workers : {1, 2, 3, 4}) {
    Training training(tiny_mlp(), config_of(workers, 12, 9));
    ASSERT_EQ(training.train(), "");
    if (workers == 1) expected = training.checksum();
    EXPECT_EQ(training.checksum(), expected) << workers << " ranks";
  }
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

// Staleness and communication thread.
class Stopped : public testing::TestWithParam<std::pair<int, const char*>> {
 protected:
  TrainConfig config() const {
    TrainConfig config = config_of(3, 3, 1'000'000);
    config.staleness = GetParam().first;
    config.comm_thread = GetParam().second;
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(AllWays, Stopped,
                         testing::Values(std::pair{0, "inline"}, std::pair{1, "inline"},
                                         std::pair{0, "sibling"}, std::pair{1, "sibling"}),
                         [](const auto& info) {
                           return fmt::format("staleness_{}_{}", info.param.first, info.param.second);
                         });

TEST_P(Stopped, training_ends_on_all_ranks_with_the_same_step) {
  Training training(tiny_mlp(), config());
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
  SerialRun serial(training);
  for (int64_t step = 1; step <= last; ++step) serial.step(step);
  EXPECT_EQ(training.checksum(), serial.checksum());
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

TEST_P(Stopped, training_that_is_aborted_unwinds_every_rank) {
  Training training(tiny_mlp(), config());
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
