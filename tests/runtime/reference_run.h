// A training run in double precision that knows neither buckets nor ranks, and of shards only that batch norm
// takes its statistics from one: plain loops forward, central differences for gradients, optimizers by their
// definitions.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "runtime/data_order.h"
#include "runtime/initial_weights.h"
#include "tests/kernels/reference_network.h"
#include "tests/runtime/training.h"

namespace annulus {

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
    struct Shard {
      Doubles input;
      std::vector<uint8_t> labels;
    };
    std::vector<Shard> shards;
    for (int64_t s = 0; s < run_.config.shards; ++s) {
      const ShardRange part = deal(s, run_.config.shards, images.count);
      if (part.count() == 0) continue;
      Shard& shard = shards.emplace_back();
      for (int64_t i = images.begin + part.begin; i < images.begin + part.end; ++i) {
        append_image(data_.train_images, order(i), shard.input);
        shard.labels.push_back(data_.train_labels[order(i)]);
      }
    }
    const auto loss_now = [&] {
      double sum = 0;
      for (const Shard& shard : shards) {
        sum += network_.loss(weights, shard.input, shard.labels, 1.0 / images.count);
      }
      return sum;
    };
    losses.push_back(loss_now());

    std::vector<Doubles> gradients;
    for (std::size_t p = 0; p < weights.size(); ++p) {
      gradients.emplace_back();
      if (is_statistic(run_.network.parameters[p].role)) continue;
      for (double& w : weights[p]) {
        // So small that hardly a ReLU turns between the two; rounding of the losses comes to 1e-9.
        const double before = w, h = 1e-7;
        w = before + h;
        const double above = loss_now();
        w = before - h;
        gradients.back().push_back((above - loss_now()) / (2 * h));
        w = before;
      }
    }
    const std::vector<Doubles> statistics = mean_statistics(shards, images.count);
    for (std::size_t p = 0; p < weights.size(); ++p) {
      for (std::size_t i = 0; i < weights[p].size(); ++i) {
        if (is_statistic(run_.network.parameters[p].role)) {
          weights[p][i] += 0.1 * (statistics[p][i] - weights[p][i]);
        } else {
          update(step, gradients[p][i], weights[p][i], moments_[0][p][i], moments_[1][p][i]);
        }
      }
    }
  }

  // Test images that the weights now put into their class, and their mean loss.
  std::pair<int64_t, double> evaluate() const {
    Doubles input;
    const int images = static_cast<int>(data_.test_labels.size());
    for (int i = 0; i < images; ++i) append_image(data_.test_images, i, input);
    const Doubles logits = network_.inference_logits(weights, input, images);
    int64_t correct = 0;
    for (int i = 0; i < images; ++i) {
      const double* row = &logits[i * kClasses];
      correct += std::max_element(row, row + kClasses) - row == data_.test_labels[i];
    }
    const std::vector<uint8_t> labels(data_.test_labels.begin(), data_.test_labels.end());
    return {correct, network_.cross_entropy(logits, labels, 1.0 / images)};
  }

  std::vector<Doubles> weights;
  Doubles losses;  // of each step

 private:
  // Of the shards' batch norms, each weighted by its images.
  template <typename Shards>
  std::vector<Doubles> mean_statistics(const Shards& shards, int64_t images) const {
    std::vector<Doubles> mean(weights.size());
    for (std::size_t p = 0; p < weights.size(); ++p) {
      const ParameterPlan& parameter = run_.network.parameters[p];
      if (!is_statistic(parameter.role)) continue;
      mean[p].resize(weights[p].size());
      for (const auto& shard : shards) {
        const auto statistics =
            network_.statistics(parameter.layer, weights, shard.input, static_cast<int>(shard.labels.size()));
        const Doubles& own =
            parameter.role == ParameterRole::kRunningMean ? statistics.mean : statistics.unbiased_variance;
        const double share = static_cast<double>(shard.labels.size()) / static_cast<double>(images);
        for (std::size_t i = 0; i < own.size(); ++i) mean[p][i] += share * own[i];
      }
    }
    return mean;
  }

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

}  // namespace annulus
