#pragma once

#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "kernels/image_batch.h"
#include "kernels/squared_norm.h"
#include "runtime/arena.h"
#include "runtime/data_order.h"
#include "runtime/initial_weights.h"
#include "runtime/optimizer_step.h"
#include "tests/runtime/training.h"

namespace annulus {

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
    update.apply_reference(run_.buckets.statistics, gradient.data(),
                           {weights_.back().data(), {moments_[0].data(), moments_[1].data()}},
                           {updated.data(), {new_moments[0].data(), new_moments[1].data()}});
    for (int64_t i = run_.buckets.statistics; i < run_.buckets.elements; ++i) {
      const float old = weights_.back().data()[i];
      updated.data()[i] = old + 0.1f * (gradient.data()[i] - old);
    }
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
    for (int64_t block = 0; block < run_.buckets.statistics; block += kBlockElements) {
      double of_block = 0;
      for (int64_t i = block; i < block + kBlockElements; i += kPieceElements) {
        of_block += squared_norm_reference(kPieceElements, gradient.data() + i);
      }
      all += of_block;
    }
    norms.push_back(std::sqrt(all));
    const double factor = run_.config.clip / (norms.back() + 1e-6);
    for (int64_t i = 0; factor < 1 && i < run_.buckets.statistics; ++i) {
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

}  // namespace annulus
