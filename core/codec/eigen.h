// Symmetric matrices in double precision: Cholesky factors, eigenvalues and eigenvectors.
//
// Called by core/codec/basis and by programs that make plans. Row-major, n x n, in place.
#ifndef KVGEAR_CORE_CODEC_EIGEN_H_
#define KVGEAR_CORE_CODEC_EIGEN_H_

#include <cstddef>

namespace kvg {

// The lower triangle of `a` becomes L of a = L L^T, the rest zero. A pivot that is not positive
// (`a` is not positive definite) becomes `least`.
void Cholesky(double* a, size_t n, double least);

// `a` is destroyed. values[k], largest first; row k of `vectors` is the eigenvector that belongs to
// it. Householder tridiagonalisation, then implicit QL. `work` has room for 2 n numbers. Finite
// input gives finite output, orthogonal to rounding.
void SymmetricEigen(double* a, size_t n, double* values, double* vectors, double* work);

}  // namespace kvg

#endif  // KVGEAR_CORE_CODEC_EIGEN_H_
