// What the user may have meant by a name that does not exist.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace annulus {

// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
int edit_distance(std::string_view from, std::string_view to);

// The one of `names` that is nearest to `word`; empty when none is near enough to be a likely slip. A word
// that begins a name counts as a slip of one letter.
std::string nearest_name(std::string_view word, const std::vector<std::string>& names);

}  // namespace annulus
