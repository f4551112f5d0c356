#include "job/graph.h"

#include <stdbool.h>

static bool is_prompt(ks_json v)
{
    for (int i = 0; ks_json_is_object(v) && i < ks_json_size(v); i++) {
        ks_json node = ks_json_member(v, i, NULL);
        if (ks_json_is_object(node) && ks_json_is_string(ks_json_get(node, "class_type")))
            return true;
    }
    return false;
}

static bool is_workflow(ks_json v)
{
    return ks_json_is_object(v) && ks_json_is_array(ks_json_get(v, "nodes")) && ks_json_is_array(ks_json_get(v, "links"));
}

int ks_refuse_graph(ks_json root, ks_error *err)
{
    if (!is_workflow(root) && !is_prompt(root) && !(ks_json_is_object(root) && is_prompt(ks_json_get(root, "prompt"))))
        return 0;
    return ks_json_error(root, err, "is a ComfyUI graph, not a job; give a job whose keys are the widgets of the graph's KSampler "
                         "node, by the same names (\"From a ComfyUI graph\" in docs/job-format.md has every node)");
}
