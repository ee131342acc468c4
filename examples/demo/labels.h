// Places for the labels of a scatter plot, so that none covers another label or a marker. Used by
// plot.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_LABELS_H_
#define KVGEAR_EXAMPLES_DEMO_LABELS_H_

#include <vector>

namespace demo {

struct Box {
  double left = 0, top = 0, right = 0, bottom = 0;
};

/// The area that two boxes share.
double SharedArea(const Box& a, const Box& b);

struct LabelWish {
  double x = 0, y = 0;           // of the marker that it belongs to
  double width = 0, height = 0;  // of the label
};

/// A box for every label inside `frame`, near its marker and clear of the others where there is
/// room. Markers are discs of this radius. The same wishes always get the same places.
std::vector<Box> PlaceLabels(const std::vector<LabelWish>& wishes, const Box& frame,
                             double marker_radius);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_LABELS_H_
