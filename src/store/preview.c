#include "store/preview.h"

#include <math.h>
#include <stdbool.h>

enum { SWEEPS = 40 };
static const double DEVIATIONS = 2.2; /* that span the range of brightness or colour */

static bool read_pixel(const ks_preview *p, const float *latent, size_t pixels, size_t i,
                       double *value)
{
    bool finite = true;
    for (int c = 0; c < p->channels; c++) {
        value[c] = (double)latent[(size_t)c * pixels + i];
        finite = finite && isfinite(value[c]);
    }
    return finite;
}

void ks_preview_add(ks_preview *p, int channels, const float *latent, size_t pixels)
{
    double value[KS_PREVIEW_CHANNELS];
    p->channels = channels < KS_PREVIEW_CHANNELS ? channels : KS_PREVIEW_CHANNELS;
    for (size_t i = 0; i < pixels; i++) {
        if (!read_pixel(p, latent, pixels, i, value))
            continue;
        p->pixels++;
        for (int a = 0; a < p->channels; a++) {
            p->sum[a] += value[a];
            for (int b = 0; b <= a; b++)
                p->product[a][b] += value[a] * value[b];
        }
    }
}

typedef struct eigen {
    int n;
    double a[KS_PREVIEW_CHANNELS]
            [KS_PREVIEW_CHANNELS]; /* symmetric; its diagonal becomes the eigenvalues */
    double v[KS_PREVIEW_CHANNELS][KS_PREVIEW_CHANNELS]; /* columns become the eigenvectors */
} eigen;

/* One Jacobi rotation, which makes a[p][q] zero (Golub and Van Loan, Matrix Computations,
 * section 8.5). */
static void rotate(eigen *e, int p, int q)
{
    if (e->a[p][q] == 0)
        return;
    double tau = (e->a[q][q] - e->a[p][p]) / (2 * e->a[p][q]);
    double t = (tau >= 0 ? 1 : -1) / (fabs(tau) + sqrt(1 + tau * tau)), c = 1 / sqrt(1 + t * t),
           s = t * c;
    for (int k = 0; k < e->n; k++) {
        double x = e->a[k][p], y = e->a[k][q];
        e->a[k][p] = c * x - s * y;
        e->a[k][q] = s * x + c * y;
    }
    for (int k = 0; k < e->n; k++) {
        double x = e->a[p][k], y = e->a[q][k];
        e->a[p][k] = c * x - s * y;
        e->a[q][k] = s * x + c * y;
        x = e->v[k][p];
        y = e->v[k][q];
        e->v[k][p] = c * x - s * y;
        e->v[k][q] = s * x + c * y;
    }
}

static void solve(eigen *e)
{
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (int p = 0; p < e->n; p++)
            for (int q = p + 1; q < e->n; q++)
                rotate(e, p, q);
}

static void set_covariance(eigen *e, const ks_preview *p)
{
    e->n = p->channels;
    for (int a = 0; a < e->n; a++)
        for (int b = 0; b <= a; b++) {
            e->v[a][b] = e->v[b][a] = a == b;
            e->a[a][b] = e->a[b][a] = p->product[a][b] / p->pixels -
                                      p->sum[a] / p->pixels * p->sum[b] / p->pixels;
        }
}

/* The column of the largest eigenvalue; it is set to -1, so that the next call gives the next. */
static int take_largest(eigen *e, double *value)
{
    int best = 0;
    for (int i = 1; i < e->n; i++)
        if (e->a[i][i] > e->a[best][best])
            best = i;
    *value = e->a[best][best];
    e->a[best][best] = -1;
    return best;
}

/* A direction's sign is free: the component of largest size is made positive, so that a set looks
 * the same each time. */
static double sign_of(const eigen *e, int column)
{
    int best = 0;
    for (int i = 1; i < e->n; i++)
        if (fabs(e->v[i][column]) > 1.0001 * fabs(e->v[best][column]))
            best = i;
    return e->v[best][column] < 0 ? -1 : 1;
}

void ks_preview_fit(ks_preview *p)
{
    eigen e = {.n = 0};
    if (p->pixels < 1)
        return;
    set_covariance(&e, p);
    solve(&e);
    for (int d = 0; d < 3; d++) {
        double variance;
        int column = take_largest(&e, &variance);
        double scale = d < e.n && variance > 1e-12
                           ? sign_of(&e, column) / (DEVIATIONS * sqrt(variance))
                           : 0;
        p->offset[d] = 0;
        for (int c = 0; c < e.n; c++) {
            p->weight[d][c] = scale * e.v[c][column];
            p->offset[d] -= p->weight[d][c] * p->sum[c] / p->pixels;
        }
    }
}

static uint8_t to_byte(double x)
{
    return (uint8_t)(x <= 0 ? 0 : x >= 255 ? 255 : x + 0.5);
}

void ks_preview_draw(const ks_preview *p, const float *latent, size_t pixels, uint8_t *rgb)
{
    double value[KS_PREVIEW_CHANNELS];
    for (size_t i = 0; i < pixels; i++) {
        double d[3] = {p->offset[0], p->offset[1], p->offset[2]};
        bool finite = read_pixel(p, latent, pixels, i, value);
        for (int k = 0; k < 3; k++)
            for (int c = 0; c < p->channels && finite; c++)
                d[k] += p->weight[k][c] * value[c];
        double light = 128 + 115 * d[0], red = 40 * d[1], blue = 40 * d[2];
        rgb[3 * i] = finite ? to_byte(light + 1.4 * red) : 255; /* the usual matrix of YCbCr */
        rgb[3 * i + 1] = finite ? to_byte(light - 0.34 * blue - 0.71 * red) : 0;
        rgb[3 * i + 2] = finite ? to_byte(light + 1.77 * blue) : 255;
    }
}
