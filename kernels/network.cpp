#include "kernels/network.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/arena_plan.h"
#include "kernels/convolution_layer.h"
#include "kernels/dnnl_compat.h"
#include "kernels/layer.h"
#include "kernels/linear_layer.h"
#include "kernels/max_pool_layer.h"
#include "kernels/parallel_for.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

// What lies in the arena, with room for every portion or for one that they use in turn.
struct Room {
  int64_t offset = 0;
  int64_t bytes = 0;
  bool shared = false;  // by the portions
};

// Collects rooms with their lives and then places them.
class RoomPlanner {
 public:
  // `room` is written by place().
  void add(Room& room, int64_t bytes, bool shared, int first_use, int last_use) {
    room = {.bytes = bytes, .shared = shared};
    rooms_.push_back(&room);
    buffers_.push_back({bytes, first_use, last_use});
  }

  // Returns the size of the arena.
  int64_t place() const {
    const ArenaPlan arena = plan_arena(buffers_);
    for (size_t i = 0; i < rooms_.size(); ++i) rooms_[i]->offset = arena.offsets[i];
    return arena.bytes;
  }

 private:
  std::vector<Room*> rooms_;
  std::vector<ArenaBuffer> buffers_;
};

int64_t whole_lines(int64_t bytes) {
  return (bytes + ArenaPlan::kAlignment - 1) / ArenaPlan::kAlignment * ArenaPlan::kAlignment;
}

int64_t bytes_of(const onednn::Desc& desc) { return static_cast<int64_t>(desc.get_size()); }

}  // namespace

class Network::Impl {
 public:
  Impl(const NetworkSpec& spec, const Staging& staging, int threads) : spec_(spec), batch_(staging.batch) {
    CHECK(batch_ >= 1 && threads >= 1, "batch {}, threads {}", batch_, threads);
    (void)activation_shapes(spec);
    set_threads(threads);
    context_.engine = dnnl::engine(dnnl::engine::kind::cpu, 0);
    context_.stream = dnnl::stream(context_.engine);
    context_.threads = threads;

    plan_.network = spec.name;
    plan_.batch = batch_;
    plan_.threads = threads;
    plan_.isa = onednn::effective_isa();
    plan_.library = onednn::library_name();
    plan_.stages = staging.stages;
    make_layers();
    place_rooms();
  }

  void make_layers() {
    onednn::Desc src = onednn::make_desc(
        {batch_, spec_.input.channels, spec_.input.height, spec_.input.width}, onednn::Tag::nchw);
    activation_bytes_.push_back(bytes_of(src));
    for (int stage = 0; stage < static_cast<int>(plan_.stages.size()); ++stage) {
      const StagePlan& plan = plan_.stages[stage];
      CHECK(plan.first_layer == static_cast<int>(layers_.size()) && plan.layers >= 1, "stage {}", stage);
      CHECK(plan.portion >= 1 && batch_ % plan.portion == 0, "{} of {} images", plan.portion, batch_);
      src = onednn::with_images(src, plan.portion);
      for (int k = plan.first_layer; k < plan.first_layer + plan.layers; ++k) {
        layers_.push_back(make_layer(k, src));
        stage_of_.push_back(stage);
        parameters_before_.push_back(static_cast<int>(plan_.parameters.size()));
        layers_.back()->describe(k, plan_);
        src = layers_.back()->dst_desc();
        activation_bytes_.push_back(whole_lines(bytes_of(src)) * portions(stage));
      }
      activation_bytes_.back() = bytes_of(onednn::with_images(src, batch_));
    }
    CHECK(static_cast<int>(layers_.size()) == count(), "{} of {} layers", layers_.size(), count());
    parameters_before_.push_back(static_cast<int>(plan_.parameters.size()));
  }

  std::unique_ptr<Layer> make_layer(int k, const onednn::Desc& src) const {
    const LayerSpec& spec = spec_.layers[k];
    const bool first = !has_input_gradient(k);
    // Pooling notes where its input lets gradients through, so it masks them for the layer before it.
    const bool pooled = k + 1 < count() && spec_.layers[k + 1].kind == LayerKind::kMaxPool;
    const bool mask_gradient = spec.relu && !pooled;
    switch (spec.kind) {
      case LayerKind::kConvolution:
        return make_convolution_layer(context_, spec, src, first, mask_gradient);
      case LayerKind::kLinear:
        return make_linear_layer(context_, spec, src, first, mask_gradient);
      case LayerKind::kMaxPool:
        return make_max_pool_layer(context_, spec, src, first, k > 0 && spec_.layers[k - 1].relu);
      default:
        throw UserError::format("layer {} is of a kind that networks cannot have yet", spec.name);
    }
  }

  // Whether the gradient of layer k's input is of use: whether a layer before it has parameters.
  bool has_input_gradient(int k) const {
    return std::any_of(spec_.layers.begin(), spec_.layers.begin() + k,
                       [](const LayerSpec& layer) { return has_parameters(layer.kind); });
  }

  // Moments of a step: forward of layer k is k, the loss is count(), backward of layer k is 2 * count() - k.
  struct Moments {
    int first, last;
  };
  int backward_of(int layer) const { return 2 * count() - layer; }

  // The moments of the pass of the stage that a moment is part of. A pass goes through them portion by
  // portion.
  Moments pass_around(int moment) const {
    if (moment == count()) return {moment, moment};
    const bool forward = moment < count();
    const StagePlan& stage = plan_.stages[stage_of_[forward ? moment : 2 * count() - moment]];
    const int first = stage.first_layer, last = stage.first_layer + stage.layers - 1;
    return forward ? Moments{first, last} : Moments{backward_of(last), backward_of(first)};
  }

  // Whether activation k, or its gradient, passes from one stage to another, into or out of the network.
  bool between_stages(int k) const { return k == 0 || k == count() || stage_of_[k - 1] != stage_of_[k]; }

  void place_rooms() {
    RoomPlanner planner;
    // Early portions write while others are still to go through earlier moments, and late ones read when
    // others have gone through later ones: what holds the data of all portions lives for whole passes.
    const auto add_for_all = [&](Room& room, int64_t bytes, int first_use, int last_use) {
      planner.add(room, bytes, false, pass_around(first_use).first, pass_around(last_use).last);
    };
    const auto add_shared = [&](Room& room, int64_t bytes, int first_use, int last_use) {
      planner.add(room, bytes, true, first_use, last_use);
    };

    activations_.resize(count() + 1);
    gradients_.resize(count() + 1);
    for (int k = 0; k <= count(); ++k) {
      const int64_t bytes = activation_bytes_[k];
      const int written = std::max(k - 1, 0);
      int last_use = k;
      if (k < count() && layers_[k]->needs().reads_src) last_use = backward_of(k);
      if (k > 0 && layers_[k - 1]->needs().reads_dst) last_use = backward_of(k - 1);
      // The logits stay for whoever wants to look at them after the step.
      if (k == count()) last_use = backward_of(0);
      if (between_stages(k) || last_use > k) {
        add_for_all(activations_[k], bytes, written, last_use);
      } else {
        add_shared(activations_[k], bytes / portions(stage_of_[k]), written, last_use);
      }
      if (k == 0 || !has_input_gradient(k)) continue;
      if (between_stages(k)) {
        add_for_all(gradients_[k], bytes, backward_of(k), backward_of(k - 1));
      } else {
        add_shared(gradients_[k], bytes / portions(stage_of_[k]), backward_of(k), backward_of(k - 1));
      }
    }

    rooms_.resize(count());
    for (int k = 0; k < count(); ++k) {
      const LayerNeeds needs = layers_[k]->needs();
      const Moments forward = pass_around(k), backward = pass_around(backward_of(k));
      const int stage_portions = portions(stage_of_[k]);
      LayerRooms& rooms = rooms_[k];
      add_for_all(rooms.saved, whole_lines(needs.saved) * stage_portions, k, backward_of(k));
      add_shared(rooms.forward_scratch, needs.forward_scratch, forward.first, forward.last);
      add_shared(rooms.backward_scratch, needs.backward_scratch, backward.first, backward.last);
      add_shared(rooms.gradients, stage_portions > 1 ? needs.gradients : 0, backward_of(k), backward_of(k));
    }
    plan_.arena_bytes = planner.place();
  }

  void bind_arena(std::span<std::byte> arena) {
    CHECK(arena_ == nullptr, "bind_arena was called before");
    CHECK(static_cast<int64_t>(arena.size()) >= plan_.arena_bytes, "{} of {} bytes", arena.size(),
          plan_.arena_bytes);
    CHECK(reinterpret_cast<uintptr_t>(arena.data()) % ArenaPlan::kAlignment == 0);
    arena_ = arena.data();
  }

  // Layer k's part of the arena for one portion of its stage.
  Portion portion_of(int k, int portion, bool forward) const {
    const auto at = [&](const Room& room) -> void* {
      if (room.bytes == 0) return nullptr;
      return arena_ + room.offset + (room.shared ? 0 : room.bytes / portions(stage_of_[k]) * portion);
    };
    const LayerRooms& rooms = rooms_[k];
    return {.first = portion == 0,
            .src = at(activations_[k]),
            .dst = at(activations_[k + 1]),
            .saved = at(rooms.saved),
            .diff_src = at(gradients_[k]),
            .diff_dst = at(gradients_[k + 1]),
            .scratch = at(forward ? rooms.forward_scratch : rooms.backward_scratch),
            .gradients = at(rooms.gradients)};
  }

  void forward(int stage, int portion, const float* weights) {
    const StagePlan& plan = checked_stage(stage, portion);
    for (int k = plan.first_layer; k < plan.first_layer + plan.layers; ++k) {
      layers_[k]->forward(portion_of(k, portion, true), weights);
    }
  }

  void backward(int stage, int portion, const float* weights, float* gradients) {
    const StagePlan& plan = checked_stage(stage, portion);
    for (int k = plan.first_layer + plan.layers - 1; k >= plan.first_layer; --k) {
      layers_[k]->backward(portion_of(k, portion, false), weights, gradients);
    }
  }

  void set_parameter_offsets(std::span<const int64_t> offsets) {
    CHECK(offsets.size() == plan_.parameters.size(), "{} offsets for {} parameters", offsets.size(),
          plan_.parameters.size());
    for (const int64_t offset : offsets) CHECK(offset % 16 == 0, "offset {}", offset);
    for (int k = 0; k < count(); ++k) {
      layers_[k]->set_parameter_offsets(
          offsets.subspan(parameters_before_[k], parameters_before_[k + 1] - parameters_before_[k]));
    }
  }

  std::span<float> activation(int k) const { return floats_in(activations_[k]); }

  LossSum loss(std::span<const uint8_t> labels, float scale) {
    CHECK(static_cast<int64_t>(labels.size()) <= batch_, "{} labels for a batch of {}", labels.size(),
          batch_);
    return softmax_cross_entropy(activation(count()), spec_.classes, labels, scale,
                                 floats_in(gradients_[count()]));
  }

  int portions(int stage) const { return static_cast<int>(batch_ / plan_.stages.at(stage).portion); }
  int count() const { return static_cast<int>(spec_.layers.size()); }
  const NetworkPlan& plan() const { return plan_; }

 private:
  struct LayerRooms {
    Room saved, forward_scratch, backward_scratch, gradients;
  };

  const StagePlan& checked_stage(int stage, int portion) const {
    CHECK(arena_ != nullptr, "the network has no arena yet");
    CHECK(portion >= 0 && portion < portions(stage), "portion {} of {}", portion, portions(stage));
    return plan_.stages[stage];
  }

  std::span<float> floats_in(const Room& room) const {
    CHECK(arena_ != nullptr, "the network has no arena yet");
    return {reinterpret_cast<float*>(arena_ + room.offset), room.bytes / sizeof(float)};
  }

  NetworkSpec spec_;
  int64_t batch_;
  LayerContext context_;
  NetworkPlan plan_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<int> stage_of_;           // per layer
  std::vector<int> parameters_before_;  // parameters of the layers before layer k
  // Of the input of layer k; the last entry is that of the logits.
  std::vector<int64_t> activation_bytes_;
  std::vector<Room> activations_, gradients_;
  std::vector<LayerRooms> rooms_;  // per layer
  std::byte* arena_ = nullptr;
};

Network::Network(const NetworkSpec& spec, int64_t images, int threads)
    : Network(spec, plan_stages(spec, images, threads), threads) {}
Network::Network(const NetworkSpec& spec, const Staging& staging, int threads)
    : impl_(std::make_unique<Impl>(spec, staging, threads)) {}
Network::~Network() = default;

const NetworkPlan& Network::plan() const { return impl_->plan(); }
void Network::bind_arena(std::span<std::byte> arena) { impl_->bind_arena(arena); }
void Network::set_parameter_offsets(std::span<const int64_t> offsets) {
  impl_->set_parameter_offsets(offsets);
}
std::span<float> Network::input() { return impl_->activation(0); }
int Network::portions(int stage) const { return impl_->portions(stage); }
void Network::forward(int stage, int portion, const float* weights) {
  impl_->forward(stage, portion, weights);
}
std::span<const float> Network::logits() const { return impl_->activation(impl_->count()); }
LossSum Network::loss(std::span<const uint8_t> labels, float scale) { return impl_->loss(labels, scale); }
void Network::backward(int stage, int portion, const float* weights, float* gradients) {
  impl_->backward(stage, portion, weights, gradients);
}

}  // namespace annulus
