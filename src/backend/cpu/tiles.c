/* How work is cut into tasks. Shapes alone decide, never the number of threads. */
#include "backend/cpu/cpu.h"

static int count_of(int64_t whole, int64_t part)
{
    return (int)((whole + part - 1) / part);
}

/* Tiles are large enough that packing a weight tile for BLAS costs little beside the product, and
 * small enough that one row feeds several threads. */
ks_cpu_tiles ks_cpu_product_tiles(int64_t pixels, int columns, int64_t depth)
{
    enum { WIDE = 512, WIDEST = 384, CACHED = 1 << 18 };
    ks_cpu_tiles t = {.pixels = pixels, .columns = columns, .column_tile = columns};
    if (columns > WIDE) {
        int parts = count_of(columns, WIDEST);
        t.column_tile = count_of(count_of(columns, parts), 16) * 16;
    }
    int tile = depth * t.column_tile > CACHED ? 256 : 128;
    t.pixel_tile = (int)ks_cpu_min(tile, pixels);
    t.pixel_tiles = count_of(pixels, t.pixel_tile);
    t.column_tiles = count_of(columns, t.column_tile);
    return t;
}

ks_cpu_tiles ks_cpu_pixel_tiles(ks_act a)
{
    enum { ELEMENTS = 1 << 15 };
    int64_t pixels = ks_cpu_pixels(a), tile = a.c < ELEMENTS ? ELEMENTS / a.c : 1;
    ks_cpu_tiles t = {.pixels = pixels, .columns = a.c, .column_tile = a.c, .column_tiles = 1};
    t.pixel_tile = (int)ks_cpu_min(tile, pixels);
    t.pixel_tiles = count_of(pixels, t.pixel_tile);
    return t;
}

int ks_cpu_tasks(const ks_cpu_tiles *tiles, int rows)
{
    return rows * tiles->pixel_tiles * tiles->column_tiles;
}

ks_cpu_tile ks_cpu_tile_of(const ks_cpu_tiles *tiles, int task)
{
    int column_tile = task % tiles->column_tiles, rest = task / tiles->column_tiles;
    ks_cpu_tile t = {.row = rest / tiles->pixel_tiles, .column = column_tile * tiles->column_tile};
    t.pixel = (int64_t)(rest % tiles->pixel_tiles) * tiles->pixel_tile;
    t.pixels = (int)ks_cpu_min(tiles->pixel_tile, tiles->pixels - t.pixel);
    t.columns = (int)ks_cpu_min(tiles->column_tile, tiles->columns - t.column);
    return t;
}
