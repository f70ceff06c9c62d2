#include "telemetry/nearest_name.h"

#include <algorithm>
#include <numeric>

namespace annulus {

int edit_distance(std::string_view from, std::string_view to) {
  std::vector<int> before(to.size() + 1), last(to.size() + 1), row(to.size() + 1);
  std::iota(last.begin(), last.end(), 0);
  for (size_t i = 1; i <= from.size(); ++i) {
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= to.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (from[i - 1] != to[j - 1])});
      if (i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[to.size()];
}

std::string nearest_name(std::string_view word, const std::vector<std::string>& names) {
  // Beyond this a word is more likely another word than a slip; the cost of one comparison stays bounded,
  // too.
  constexpr size_t longest_word = 64;
  if (word.size() < 2 || word.size() > longest_word) return {};
  const int limit = std::max(2, static_cast<int>(word.size()) / 3);
  std::string nearest;
  int smallest = limit + 1;
  for (const std::string& name : names) {
    const int distance = name.starts_with(word) ? 1 : edit_distance(word, name);
    // In a short name most letters may differ within the limit: half of them must be right.
    if (distance < smallest && distance <= static_cast<int>(std::max(name.size(), word.size())) / 2) {
      smallest = distance;
      nearest = name;
    }
  }
  return nearest;
}

}  // namespace annulus
