// Link: a connection between two processes that trust each other.
#pragma once

#include "collectives/handshake.h"
#include "collectives/unique_fd.h"

namespace annulus {

// The handshake is done, and the first byte after it is still unread.
struct Link {
  UniqueFd fd;
  Identity peer;
};

}  // namespace annulus
