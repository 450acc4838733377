/* Weights in and out, as one block of bytes: magic, version, network, steps, size; the values; a checksum of it all. */
#include <string.h>

#include "ep_kernels.h"

enum { MAGIC = 0x31435045 /* "EPC1" */, HEADER = 5 };

static uint32_t word(const unsigned char *bytes, uint32_t at)
{
    uint32_t value;
    memcpy(&value, bytes + 4 * at, 4);
    return value;
}

/* CRC-32 of some bytes, given the complement of that of those before them. */
static uint32_t more(uint32_t sum, const void *bytes, uint32_t size)
{
    const unsigned char *from = bytes;
    while (size--) {
        sum ^= *from++;
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1u ? 0xEDB88320u : 0u);
    }
    return sum;
}

static uint32_t checksum(const void *bytes, uint32_t size)
{
    return ~more(~0u, bytes, size);
}

uint32_t ep_weights_checksum(void)
{
    uint32_t sum = ~0u;
    for (const ep_part *p = ep_parts; p->size; p++)
        sum = more(sum, p->ram ? p->ram : &ep_image.values[p->offset], 4 * p->size);
    return ~sum;
}

int ep_load(const void *blob, uint32_t size)
{
    const unsigned char *bytes = blob;
    if (size < 4 * HEADER || word(bytes, 0) != MAGIC)
        return EP_NOT_WEIGHTS;
    if (word(bytes, 1) > EP_VERSION)
        return EP_NEWER;
    if (size < 4 * (HEADER + 1) || word(bytes, 4) != size / 4 - HEADER - 1 || size % 4 ||
        word(bytes, size / 4 - 1) != checksum(bytes, size - 4))
        return EP_CORRUPT;
    if (word(bytes, 2) != EP_NETWORK || word(bytes, 4) != EP_IMAGE - HEADER - 1)
        return EP_OTHER_NETWORK;
    for (const ep_part *p = ep_parts; p->size; p++)
        if (!p->ram && memcmp(bytes + 4 * p->offset, &ep_image.words[p->offset], 4 * p->size))
            return EP_OTHER_NETWORK; /* weights that rest in flash are not these */
    for (const ep_part *p = ep_parts; p->size; p++)
        if (p->ram)
            memcpy(p->ram, bytes + 4 * p->offset, 4 * p->size);
    ep_steps = word(bytes, 3);
    ep_loaded = 1;
    return EP_OK;
}

int ep_start(void)
{
    return ep_load(ep_image.words, sizeof ep_image);
}

int ep_save(void *blob, uint32_t size)
{
    unsigned char *bytes = blob;
    const uint32_t head[HEADER] = {MAGIC, EP_VERSION, EP_NETWORK, ep_steps, EP_IMAGE - HEADER - 1};
    uint32_t sum;
    if (!ep_loaded)
        return EP_NOT_LOADED;
    if (size != EP_BLOB)
        return EP_WRONG_SIZE;
    memcpy(bytes, head, sizeof head);
    for (const ep_part *p = ep_parts; p->size; p++)
        memcpy(bytes + 4 * p->offset, p->ram ? p->ram : &ep_image.values[p->offset], 4 * p->size);
    sum = checksum(bytes, size - 4);
    memcpy(bytes + size - 4, &sum, 4);
    return EP_OK;
}

const char *ep_message(int status)
{
    switch (status) {
    case EP_NOT_LOADED: return "no weights are loaded: call ep_start or ep_load first";
    case EP_WRONG_SIZE: return "wrong size: inputs are EP_INPUTS values, a blob EP_BLOB bytes";
    case EP_WRONG_TARGET: return "no such class: targets are from 0 to EP_CLASSES - 1";
    case EP_NOT_WEIGHTS: return "these bytes are not weights of edgepep";
    case EP_NEWER: return "the weights were written by a newer version than this program reads";
    case EP_CORRUPT: return "the weights are damaged: length or checksum is wrong";
    case EP_OTHER_NETWORK: return "the weights are of another network";
    case EP_NO_RULE: return "this export only infers: it was written without a rule";
    case EP_WRONG_RATE: return "the rate is negative or not finite";
    case EP_NOT_FINITE: return "the answers are not finite: so is the input, or training has diverged";
    default: return status < 0 ? "unknown status" : "ok";
    }
}
