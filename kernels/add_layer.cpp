#include "kernels/add_layer.h"

#include <cstring>
#include <string>

#include "kernels/dnnl_compat.h"
#include "kernels/elementwise.h"
#include "kernels/parallel_for.h"

namespace annulus {
namespace {

class AddLayer final : public Layer {
 public:
  AddLayer(const LayerContext& context, const LayerSpec& spec, const onednn::Desc& src)
      : context_(context),
        name_(spec.name),
        relu_(spec.relu),
        desc_(src),
        elements_(onednn::layout_of(src).padded_elements()) {}

  const dnnl::memory::desc& dst_desc() const override { return desc_; }

  LayerNeeds needs() const override { return {.reads_dst = relu_, .in_place = true}; }

  void describe(int /*index*/, NetworkPlan& plan) override {
    kernel_ = static_cast<int>(plan.kernels.size());
    const char* const kernel = relu_ ? "add+relu" : "add";
    plan.kernels.push_back({name_, kForward, kernel, "", false});
    plan.kernels.push_back({name_, kBackwardData, kernel, "", false});
  }

  void set_parameter_offsets(std::span<const int64_t> /*offsets*/) override {}

  void forward(const Portion& portion, const float* /*weights*/) override {
    each_part(kernel_, [&](int64_t begin, int64_t count) {
      add(context_.type, count, element(context_.type, portion.src, begin),
          element(context_.type, portion.addend, begin), relu_, element(context_.type, portion.dst, begin));
    });
  }

  // The addend's gradient is diff_dst itself, masked; that of the source is a copy, because the layers before
  // overwrite what they are given.
  void backward(const Portion& portion, const float* /*weights*/, float* /*gradients*/) override {
    each_part(kernel_ + 1, [&](int64_t begin, int64_t count) {
      void* const gradient = element(context_.type, portion.diff_dst, begin);
      if (relu_) relu_backward(context_.type, count, element(context_.type, portion.dst, begin), gradient);
      std::memcpy(element(context_.type, portion.diff_src, begin), gradient, count * size_of(context_.type));
    });
  }

 private:
  template <typename Body>
  void each_part(int kernel, const Body& body) const {
    context_.timed(kernel, &KernelTime::kernel_ns, [&] {
      parallel_for(context_.threads, elements_,
                   [&](int64_t begin, int64_t end) { body(begin, end - begin); });
    });
  }

  LayerContext context_;
  std::string name_;
  bool relu_;
  onednn::Desc desc_;
  int64_t elements_;
  int kernel_ = 0;  // its forward pass's number in the network's plan; backward's is the next
};

}  // namespace

std::unique_ptr<Layer> make_add_layer(const LayerContext& context, const LayerSpec& spec,
                                      const dnnl::memory::desc& src) {
  return std::make_unique<AddLayer>(context, spec, src);
}

}  // namespace annulus
