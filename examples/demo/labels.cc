// Every label tries places around its marker, nearest first; labels take turns until none wants to
// move any more.
#include "labels.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace demo {
namespace {

constexpr int kAngles = 24;
constexpr double kReaches[] = {4, 10, 18, 28, 40, 54, 70, 90, 115, 145, 180};
constexpr int kTurns = 30;
constexpr double kMargin = 2;  // between a label and anything else

Box Grown(const Box& box, double by) {
  return {box.left - by, box.top - by, box.right + by, box.bottom + by};
}

/// The label whose nearest edge is `reach` away from the marker in this direction.
Box BoxAt(const LabelWish& wish, double radius, double reach, double angle) {
  const double dx = std::cos(angle);
  const double dy = std::sin(angle);
  const double x = wish.x + dx * (radius + reach + wish.width / 2);
  const double y = wish.y + dy * (radius + reach + wish.height / 2);
  return {x - wish.width / 2, y - wish.height / 2, x + wish.width / 2, y + wish.height / 2};
}

/// How far the line from the marker to the label runs through `box`, sampled.
double LineInside(const LabelWish& wish, const Box& label, const Box& box) {
  constexpr int kSamples = 12;
  const double x = std::clamp(wish.x, label.left, label.right);
  const double y = std::clamp(wish.y, label.top, label.bottom);
  int inside = 0;
  for (int i = 1; i < kSamples; ++i) {
    const double t = static_cast<double>(i) / kSamples;
    const double px = wish.x + t * (x - wish.x);
    const double py = wish.y + t * (y - wish.y);
    inside += px > box.left && px < box.right && py > box.top && py < box.bottom;
  }
  return static_cast<double>(inside) / kSamples * std::hypot(x - wish.x, y - wish.y);
}

}  // namespace

double SharedArea(const Box& a, const Box& b) {
  const double width = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  return width > 0 && height > 0 ? width * height : 0;
}

std::vector<Box> PlaceLabels(const std::vector<LabelWish>& wishes, const Box& frame,
                             double marker_radius) {
  std::vector<Box> markers;
  for (const LabelWish& w : wishes) {
    markers.push_back(Grown({w.x, w.y, w.x, w.y}, marker_radius));
  }
  // Labels that have no place yet do not stand in anyone's way.
  std::vector<Box> places(wishes.size(), Box{1e9, 1e9, 1e9, 1e9});

  const auto cost = [&](size_t self, const Box& place, double reach, double angle) {
    const Box wide = Grown(place, kMargin);
    const double area = (place.right - place.left) * (place.bottom - place.top);
    double sum = reach;
    sum += 3 * (1 - std::cos(angle));             // to the right is where the eye looks first
    sum += 2 * std::abs(std::sin(2 * angle));     // straight places before slanting ones
    if (SharedArea(place, frame) < 0.999 * area) sum += 5000;  // worse than any crowd
    for (size_t other = 0; other < wishes.size(); ++other) {
      const double on_marker = SharedArea(wide, markers[other]);
      if (on_marker > 0) sum += 500 + on_marker;
      if (other == self) continue;
      const double on_label = SharedArea(wide, places[other]);
      if (on_label > 0) sum += 500 + on_label;
      sum += 20 * LineInside(wishes[self], place, places[other]);
      sum += 20 * LineInside(wishes[other], places[other], place) *
             (places[other].left < 1e8 ? 1 : 0);
      sum += 5 * LineInside(wishes[self], place, markers[other]);
    }
    return sum;
  };

  for (int turn = 0; turn < kTurns; ++turn) {
    bool moved = false;
    for (size_t i = 0; i < wishes.size(); ++i) {
      double least = std::numeric_limits<double>::infinity();
      Box best = places[i];
      for (const double reach : kReaches) {
        for (int a = 0; a < kAngles; ++a) {
          const double angle = 2 * M_PI * a / kAngles;
          const Box place = BoxAt(wishes[i], marker_radius, reach, angle);
          const double c = cost(i, place, reach, angle);
          if (c < least) {
            least = c;
            best = place;
          }
        }
      }
      moved = moved || best.left != places[i].left || best.top != places[i].top;
      places[i] = best;
    }
    if (!moved) break;
  }
  return places;
}

}  // namespace demo
