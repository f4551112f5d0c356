/* The room that an output's files take. */
#include "store/info.h"
#include "store/table.h"

/* What HDF5 needs for itself in a file of some data sets, with the list of attributes. */
static const double FRAME_BYTES = 8 << 10;

static double data_bytes(const ks_store_info *info)
{
    return (double)ks_info_latent_bytes(info) + (info->images ? (double)ks_info_image_bytes(info) : 0);
}

static double table_bytes(const ks_store_info *info)
{
    return (double)offsetof(ks_table_row, check) + (double)ks_table_tail_size(ks_table_extent_of(info));
}

double ks_store_shard_bytes(const ks_store_info *info, double rows)
{
    return FRAME_BYTES + ks_info_bytes(info) + rows * (data_bytes(info) + table_bytes(info));
}

double ks_store_out_bytes(const ks_store_info *info, double done, bool is_virtual)
{
    const double row_of_index = sizeof(uint64_t);
    double tables = (double)info->samples * (table_bytes(info) + row_of_index);
    double texts = ks_info_bytes(info) + ks_info_published_bytes(info);
    return FRAME_BYTES + texts + tables + (is_virtual ? 0 : done * data_bytes(info));
}
