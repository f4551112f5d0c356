/* What is no job at all: a graph that was saved from ComfyUI. */
#ifndef KS_JOB_GRAPH_H
#define KS_JOB_GRAPH_H

#include "base/json.h"

/* Fails where the document is ComfyUI's workflow ("nodes" and "links") or prompt (numbered nodes with a "class_type", alone or
 * as the "prompt" that its server takes), and says where its values go. */
int ks_refuse_graph(ks_json root, ks_error *err);

#endif
