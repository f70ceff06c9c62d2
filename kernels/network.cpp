#include "kernels/network.h"

#include <algorithm>
#include <cstdint>

#include "kernels/add_layer.h"
#include "kernels/arena_plan.h"
#include "kernels/average_pool_layer.h"
#include "kernels/batch_norm_layer.h"
#include "kernels/convolution_layer.h"
#include "kernels/dnnl_compat.h"
#include "kernels/elementwise.h"
#include "kernels/linear_layer.h"
#include "kernels/max_pool_layer.h"
#include "kernels/parallel_for.h"
#include "kernels/reduce.h"
#include "kernels/room_plan.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

int64_t bytes_of(const onednn::Desc& desc) { return static_cast<int64_t>(desc.get_size()); }

}  // namespace

class Network::Impl {
 public:
  Impl(const NetworkSpec& spec, const NetworkOptions& options)
      : spec_(spec), algorithms_(options.algorithms) {
    CHECK(options.images >= 1 && options.threads >= 1, "{} images, {} threads", options.images,
          options.threads);
    staging_ =
        options.staging ? *options.staging : plan_stages(spec, options.images, options.threads, options.type);
    set_threads(options.threads);
    context_.engine = dnnl::engine(dnnl::engine::kind::cpu, 0);
    context_.stream = dnnl::stream(context_.engine);
    context_.threads = options.threads;
    context_.type = options.type;
    context_.times = options.measure ? &times_ : nullptr;

    plan_.network = spec.name;
    plan_.type = options.type;
    plan_.batch = staging_.batch;
    plan_.threads = options.threads;
    plan_.isa = onednn::effective_isa();
    plan_.library = onednn::library_name();
    plan_.stages = staging_.stages;
    needs_gradient_ = needs_gradient(spec_);
    readers_ = readers_of(spec_);
    make_layers(options.made);
    rooms_ = plan_rooms(spec_, staging_, room_needs());
    plan_.arena_bytes = rooms_.arena_bytes;
    plan_joins();
    if (options.measure) times_.resize(plan_.kernels.size());
  }

  void bind_arena(std::span<std::byte> arena) {
    CHECK(arena_ == nullptr, "bind_arena was called before");
    CHECK(static_cast<int64_t>(arena.size()) >= plan_.arena_bytes, "{} of {} bytes", arena.size(),
          plan_.arena_bytes);
    CHECK(reinterpret_cast<uintptr_t>(arena.data()) % ArenaPlan::kAlignment == 0);
    arena_ = arena.data();
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

  void begin(const Pass& pass) {
    CHECK(pass.images >= 0 && pass.images <= plan_.batch, "{} of {} images", pass.images, plan_.batch);
    pass_ = pass;
  }

  void forward(int stage, int portion, const float* weights) {
    const StagePlan& plan = plan_.stages.at(stage);
    if (stage == 0 && plan_.type != DataType::kF32) narrow_input(portion);
    for (int k = plan.first_layer; k < plan.first_layer + plan.layers; ++k) {
      forward_layer(k, portion, weights);
    }
  }

  void backward(int stage, int portion, const float* weights, float* gradients) {
    const StagePlan& plan = plan_.stages.at(stage);
    for (int k = plan.first_layer + plan.layers - 1; k >= plan.first_layer; --k) {
      backward_layer(k, portion, weights, gradients);
    }
  }

  void forward_layer(int k, int portion, const float* weights) {
    layers_[k]->forward(portion_of(k, portion, true), weights);
  }

  void backward_layer(int k, int portion, const float* weights, float* gradients) {
    if (rooms_.parts[k + 1].empty()) return;  // nothing up to here has parameters
    const Portion part = portion_of(k, portion, false);
    join(k, portion, part.diff_dst);
    layers_[k]->backward(part, weights, gradients);
  }

  std::span<float> input() const {
    return floats_in(plan_.type == DataType::kF32 ? rooms_.activations[0] : rooms_.float_input);
  }
  std::span<float> logits() const { return floats_in(rooms_.activations[count()]); }

  LossSum loss(std::span<const uint8_t> labels, float scale) {
    CHECK(static_cast<int64_t>(labels.size()) == pass_.images, "{} labels for {} images", labels.size(),
          pass_.images);
    const Room& gradient = rooms_.gradients[rooms_.parts[count()].front()];
    if (plan_.type == DataType::kF32) {
      return softmax_cross_entropy(logits(), spec_.classes, labels, scale, floats_in(gradient));
    }
    const std::span<float> floats = floats_in(rooms_.float_loss);
    const LossSum sum = softmax_cross_entropy(logits(), spec_.classes, labels, scale, floats);
    narrow(plan_.type, static_cast<int64_t>(floats.size()), floats.data(), arena_ + gradient.offset);
    return sum;
  }

  int portions(int stage) const { return static_cast<int>(plan_.batch / plan_.stages.at(stage).portion); }
  int count() const { return static_cast<int>(spec_.layers.size()); }
  const NetworkPlan& plan() const { return plan_; }
  std::vector<KernelTime>& times() { return times_; }

 private:
  void make_layers(const std::function<void()>& made) {
    activations_.push_back(
        onednn::make_desc({plan_.batch, spec_.input.channels, spec_.input.height, spec_.input.width},
                          onednn::Tag::nchw, plan_.type));
    for (int stage = 0; stage < static_cast<int>(plan_.stages.size()); ++stage) {
      const StagePlan& plan = plan_.stages[stage];
      CHECK(plan.first_layer == static_cast<int>(layers_.size()) && plan.layers >= 1, "stage {}", stage);
      CHECK(plan.portion >= 1 && plan_.batch % plan.portion == 0, "{} of {} images", plan.portion,
            plan_.batch);
      for (int k = plan.first_layer; k < plan.first_layer + plan.layers; ++k) {
        layers_.push_back(make_layer(k, onednn::with_images(activations_[input_of(spec_, k)], plan.portion)));
        stage_of_.push_back(stage);
        parameters_before_.push_back(static_cast<int>(plan_.parameters.size()));
        layers_.back()->describe(k, plan_);
        activations_.push_back(onednn::with_images(layers_.back()->dst_desc(), plan_.batch));
        check_addend(k);
        made();
      }
    }
    CHECK(static_cast<int>(layers_.size()) == count(), "{} of {} layers", layers_.size(), count());
    parameters_before_.push_back(static_cast<int>(plan_.parameters.size()));
  }

  // The sum of two activations needs both in one layout.
  void check_addend(int k) const {
    const int addend = spec_.layers[k].addend;
    if (addend == kNoActivation || activations_[addend] == activations_[k + 1]) return;
    throw UserError::format(
        "layer {} adds what lies in another layout in memory ({} to {}); begin the block behind a "
        "convolution, or "
        "give it a shortcut with one",
        spec_.layers[k].name, onednn::layout_of(activations_[addend]).tag(),
        onednn::layout_of(activations_[k + 1]).tag());
  }

  std::unique_ptr<Layer> make_layer(int k, const onednn::Desc& src) const {
    const LayerSpec& spec = spec_.layers[k];
    const bool first = !needs_gradient_[input_of(spec_, k)];
    // Pooling notes where its input lets gradients through, so it masks them for the layer before it.
    const bool pooled = k + 1 < count() && masks_for_layer_before(k + 1);
    const bool mask_gradient = spec.relu && !pooled;
    switch (spec.kind) {
      case LayerKind::kConvolution:
        return make_convolution_layer(context_, spec, src, first, mask_gradient, algorithms_);
      case LayerKind::kLinear:
        return make_linear_layer(context_, spec, src, first, k + 1 == count(), mask_gradient);
      case LayerKind::kMaxPool:
        return make_max_pool_layer(context_, spec, src, first, masks_for_layer_before(k));
      case LayerKind::kAveragePool:
        return make_average_pool_layer(context_, spec, src);
      case LayerKind::kBatchNorm:
        return make_batch_norm_layer(context_, spec, src);
      case LayerKind::kAdd:
        return make_add_layer(context_, spec, src);
    }
    CHECK(false, "layer {}", spec.name);
  }

  // Whether layer k is max pooling of what a convolution with a ReLU makes for it alone.
  bool masks_for_layer_before(int k) const {
    const int input = input_of(spec_, k);
    if (spec_.layers[k].kind != LayerKind::kMaxPool || input == 0) return false;
    const LayerSpec& before = spec_.layers[input - 1];
    return input == k && readers_[input].size() == 1 && before.relu && before.kind == LayerKind::kConvolution;
  }

  RoomNeeds room_needs() const {
    RoomNeeds needs;
    for (int k = 0; k < count(); ++k) needs.layers.push_back(layers_[k]->needs());
    for (int a = 0; a <= count(); ++a) {
      int64_t bytes = bytes_of(activations_[a]);
      const bool inside = a > 0 && a < count() && stage_of_[a - 1] == stage_of_[a];
      if (inside) {  // each portion on lines of its own
        const int64_t portion = plan_.stages[stage_of_[a]].portion;
        bytes = ArenaPlan::whole_lines(bytes_of(onednn::with_images(activations_[a], portion))) *
                portions(stage_of_[a]);
      }
      needs.activation_bytes.push_back(bytes);
    }
    if (plan_.type != DataType::kF32) {
      constexpr int64_t kFloat = sizeof(float);
      needs.float_input_bytes = plan_.batch * spec_.input.pixels() * kFloat;
      needs.float_loss_bytes = plan_.batch * spec_.classes * kFloat;
    }
    return needs;
  }

  // Gradients whose parts the layer does not add up itself.
  void plan_joins() {
    first_joined_.resize(count());
    join_kernel_.resize(count());
    for (int k = 0; k < count(); ++k) {
      const std::size_t joined_by_layer = layers_[k]->needs().joins ? 2 : 1;
      first_joined_[k] = joined_by_layer;
      if (rooms_.parts[k + 1].size() <= joined_by_layer) continue;
      join_kernel_[k] = static_cast<int>(plan_.kernels.size());
      plan_.kernels.push_back({spec_.layers[k].name, kJoin, "add", "", false});
    }
  }

  void join(int k, int portion, void* sum) {
    const std::vector<int>& parts = rooms_.parts[k + 1];
    for (std::size_t i = first_joined_[k]; i < parts.size(); ++i) {
      const void* part = at(k, portion, rooms_.gradients[parts[i]]);
      const int64_t elements = bytes_of(activations_[k + 1]) / size_of(onednn::type_of(activations_[k + 1])) /
                               portions(stage_of_[k]);
      context_.timed(join_kernel_[k], &KernelTime::kernel_ns, [&] {
        parallel_for(context_.threads, elements, [&](int64_t begin, int64_t end) {
          add(plan_.type, end - begin, element(plan_.type, sum, begin), element(plan_.type, part, begin),
              false, element(plan_.type, sum, begin));
        });
      });
    }
  }

  // Layer k's part of a room for one portion of its stage.
  void* at(int k, int portion, const Room& room) const {
    if (room.bytes == 0) return nullptr;
    return arena_ + room.offset + (room.shared ? 0 : room.bytes / portions(stage_of_[k]) * portion);
  }
  void* gradient_at(int k, int portion, int room) const {
    return room == kNoRoom ? nullptr : at(k, portion, rooms_.gradients[room]);
  }

  Portion portion_of(int k, int portion, bool forward) const {
    CHECK(arena_ != nullptr, "the network has no arena yet");
    const int64_t images = plan_.stages[stage_of_[k]].portion;
    CHECK(portion >= 0 && portion < portions(stage_of_[k]), "portion {} of {}", portion,
          portions(stage_of_[k]));
    const LayerRooms& rooms = rooms_.layers[k];
    Portion result{.first = portion == 0,
                   .training = pass_.training,
                   .images = std::clamp<int64_t>(pass_.images - portion * images, 0, images),
                   .share = pass_.share,
                   .src = at(k, portion, rooms_.activations[input_of(spec_, k)]),
                   .dst = at(k, portion, rooms_.activations[k + 1]),
                   .saved = at(k, portion, rooms.saved)};
    if (forward) {
      const int addend = spec_.layers[k].addend;
      if (addend != kNoActivation) result.addend = at(k, portion, rooms_.activations[addend]);
      result.scratch = at(k, portion, rooms.forward_scratch);
      return result;
    }
    const std::vector<int>& parts = rooms_.parts[k + 1];
    result.diff_src = gradient_at(k, portion, rooms.diff_src);
    result.diff_addend = gradient_at(k, portion, rooms.diff_addend);
    result.diff_dst = gradient_at(k, portion, parts[0]);
    if (first_joined_[k] == 2 && parts.size() > 1) result.diff_dst2 = gradient_at(k, portion, parts[1]);
    result.scratch = at(k, portion, rooms.backward_scratch);
    result.gradients = at(k, portion, rooms.gradients);
    return result;
  }

  void narrow_input(int portion) {
    const int64_t count = plan_.stages[0].portion * spec_.input.pixels();
    narrow(plan_.type, count, floats_in(rooms_.float_input).data() + portion * count,
           at(0, portion, rooms_.activations[0]));
  }

  std::span<float> floats_in(const Room& room) const {
    CHECK(arena_ != nullptr, "the network has no arena yet");
    return {reinterpret_cast<float*>(arena_ + room.offset), room.bytes / sizeof(float)};
  }

  NetworkSpec spec_;
  ChosenAlgorithms algorithms_;
  Staging staging_;
  LayerContext context_;
  NetworkPlan plan_;
  std::vector<KernelTime> times_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<int> stage_of_;              // per layer
  std::vector<int> parameters_before_;     // parameters of the layers before layer k
  std::vector<bool> needs_gradient_;       // per activation
  std::vector<std::vector<int>> readers_;  // per activation
  std::vector<onednn::Desc> activations_;  // of the whole batch
  std::vector<std::size_t> first_joined_;  // per layer: the first part of its gradient that it does not join
  std::vector<int> join_kernel_;           // per layer: number in the plan
  RoomPlan rooms_;
  Pass pass_;
  std::byte* arena_ = nullptr;
};

Network::Network(const NetworkSpec& spec, const NetworkOptions& options)
    : impl_(std::make_unique<Impl>(spec, options)) {}
Network::~Network() = default;

const NetworkPlan& Network::plan() const { return impl_->plan(); }
void Network::bind_arena(std::span<std::byte> arena) { impl_->bind_arena(arena); }
void Network::set_parameter_offsets(std::span<const int64_t> offsets) {
  impl_->set_parameter_offsets(offsets);
}
std::span<float> Network::input() { return impl_->input(); }
void Network::begin(const Pass& pass) { impl_->begin(pass); }
int Network::portions(int stage) const { return impl_->portions(stage); }
void Network::forward(int stage, int portion, const float* weights) {
  impl_->forward(stage, portion, weights);
}
std::span<const float> Network::logits() const { return impl_->logits(); }
LossSum Network::loss(std::span<const uint8_t> labels, float scale) { return impl_->loss(labels, scale); }
void Network::backward(int stage, int portion, const float* weights, float* gradients) {
  impl_->backward(stage, portion, weights, gradients);
}
void Network::forward_layer(int layer, int portion, const float* weights) {
  impl_->forward_layer(layer, portion, weights);
}
void Network::backward_layer(int layer, int portion, const float* weights, float* gradients) {
  impl_->backward_layer(layer, portion, weights, gradients);
}
std::vector<KernelTime>& Network::times() { return impl_->times(); }

}  // namespace annulus
