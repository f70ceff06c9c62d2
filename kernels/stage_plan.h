// Stages: runs of layers that a network goes through portion by portion.
//
// In a chain of layers the trunk, the leading layers that treat images one by one (convolutions and max
// pooling), is one stage: all of its layers process one portion of the images, then all of them the next one.
// What passes between its layers then stays in the second-level cache, which the activations of a whole shard
// are far too large for. Linear layers want many images at a time, to read their weights once; each is a
// stage of its own, with one portion.
//
// Batch norm needs all images of a shard before it yields any, so in a network that has it, or that forks,
// every layer is a stage of its own. There a convolution's portion is what the rule for its algorithm says
// (kernels/convolution_algorithms.h), also where another algorithm was chosen for it, and all other layers
// have one portion.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/data_type.h"
#include "kernels/network_plan.h"
#include "kernels/network_spec.h"

namespace annulus {

// Room for what one layer of the trunk reads and writes for a portion, per thread: about the second-level
// cache of today's servers (1 MiB and more). Half of it is as fast for direct convolutions and costs
// Winograd's a quarter (kernels/convolution_algorithms.h). A constant, never the size of the machine's cache:
// gradients are summed over portions, so bits depend on them.
inline constexpr int64_t kPortionBytes = 1280 << 10;

struct Staging {
  int64_t batch = 0;  // images that the network is made for: a multiple of every stage's portion
  std::vector<StagePlan> stages;
};

// Images in a portion: at most `most` and at least half as many (all where `images` <= `most`), so that the
// fewest images are needed to fill up the last portion; the larger one of equals. images, most >= 1.
int64_t choose_portion(int64_t images, int64_t most);

// The stages of a network for shards of `images` images with activations of `type`. Throws UserError as
// activation_shapes does.
Staging plan_stages(const NetworkSpec& spec, int64_t images, int threads, DataType type = DataType::kF32,
                    int64_t portion_bytes = kPortionBytes);

}  // namespace annulus
