// Which buffers a step of a network needs, when each is alive, and where in the worker's arena it lies. A
// pure function of the network's graph, its stages and what its layers need.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/layer.h"
#include "kernels/network_spec.h"
#include "kernels/stage_plan.h"

namespace annulus {

// A place in the arena, with room for all portions of images or for one that they use in turn.
struct Room {
  int64_t offset = 0;
  int64_t bytes = 0;    // 0: no room is needed
  bool shared = false;  // by the portions
};

inline constexpr int kNoRoom = -1;

struct LayerRooms {
  Room saved, forward_scratch, backward_scratch, gradients;
  // Where its backward writes the gradients of what it read: numbers in RoomPlan::gradients.
  int diff_src = kNoRoom, diff_addend = kNoRoom;
};

struct RoomPlan {
  std::vector<Room> activations;  // per activation
  std::vector<Room> gradients;    // of activations, or of parts of them
  // Per activation: its gradient is the sum of these rooms, one for each layer that reads it, in the order in
  // which backward writes them. Empty where nothing before it has parameters.
  std::vector<std::vector<int>> parts;
  std::vector<LayerRooms> layers;
  Room float_input, float_loss;  // beside bf16 activations: the images, and the gradient of the logits
  int64_t arena_bytes = 0;
};

struct RoomNeeds {
  std::vector<LayerNeeds> layers;
  std::vector<int64_t> activation_bytes;  // of all images
  int64_t float_input_bytes = 0, float_loss_bytes = 0;
};

RoomPlan plan_rooms(const NetworkSpec& spec, const Staging& staging, const RoomNeeds& needs);

}  // namespace annulus
