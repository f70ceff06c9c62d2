// A network as people write it: layers in a row, some of them inside residual blocks, names left out where
// they are the usual ones. `flatten` makes the list of layers that kernels run, `nest` finds the blocks in
// such a list again.
//
// A residual block runs its layers, then those of its shortcut, then adds both and applies the block's ReLU.
// So the shortcut's output is alive for one layer only; what the shortcut reads is kept for backward anyway.
// Where the block's last layer is a batch norm without a ReLU of its own, that layer does the sum (its
// addend); else a layer "add" is put behind both.
//
// Names. A layer's usual name says its kind and how many of its kind are in the same list so far: conv1, bn1,
// pool1, avgpool1, fc1; in a shortcut it is downsample.0, downsample.1, ...; a block is block1, block2, ...
// The block's name and a dot precede the names inside.
#pragma once

#include <vector>

#include "kernels/network_spec.h"

namespace annulus {

struct NetworkNode {
  LayerSpec layer;  // a residual block is of kind kAdd; it has a name and perhaps a ReLU
  std::vector<NetworkNode> layers = {}, shortcut = {};  // of a block; no shortcut: its input is added
  int line = 0;                                         // where it was read from; 0: nowhere

  bool is_block() const { return layer.kind == LayerKind::kAdd; }
  bool operator==(const NetworkNode&) const = default;
};

struct FlatNetwork {
  std::vector<LayerSpec> layers;
  std::vector<int> lines;  // of each layer
};

// Fills in the usual names and joins those inside blocks with the block's. Every block must have layers.
FlatNetwork flatten(const std::vector<NetworkNode>& nodes);

// The inverse, names left out where they are the usual ones. Throws std::invalid_argument for a list that is
// not what flatten makes of any nodes.
std::vector<NetworkNode> nest(const std::vector<LayerSpec>& layers);

}  // namespace annulus
