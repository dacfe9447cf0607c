"""Mix Transformer and its heads in PyTorch, written from their publications.

Parameter names are the published ones, so that a state dict is a checkpoint. Import
only where torch is known to be installed.
"""

import torch
from torch import nn
from torch.nn import functional as F


def up(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def image(x, like):
    return x.transpose(1, 2).reshape(x.shape[0], -1, *like.shape[2:])


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel_size=1, **settings):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, bias=False, **settings)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class PatchEmbed(nn.Module):
    def __init__(self, inputs, dim, kernel_size, stride):
        super().__init__()
        self.proj = nn.Conv2d(inputs, dim, kernel_size, stride, kernel_size // 2)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x):
        x = self.proj(x)
        return image(self.norm(tokens(x)), x)


class Attention(nn.Module):
    def __init__(self, dim, heads, reduction):
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, reduction)
            self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x, like):
        batch, count, dim = x.shape
        size = dim // self.heads
        q = self.q(x).reshape(batch, count, self.heads, size).transpose(1, 2)
        if self.reduction > 1:
            x = self.norm(tokens(self.sr(image(x, like))))
        k, v = self.kv(x).reshape(batch, -1, 2, self.heads, size).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * size**-0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, count, dim))


class DwConv(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dwconv = DwConv(4 * dim)

    def forward(self, x, like):
        x = tokens(self.dwconv.dwconv(image(self.fc1(x), like)))
        return self.fc2(F.gelu(x))


class Block(nn.Module):
    def __init__(self, dim, heads, reduction):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(dim, heads, reduction), Mlp(dim)

    def forward(self, like):
        x = tokens(like)
        x = x + self.attn(self.norm1(x), like)
        x = x + self.mlp(self.norm2(x), like)
        return image(x, like)


class MixTransformer(nn.Module):
    def __init__(self, dims, depths, heads, reductions):
        super().__init__()
        inputs = 3
        for stage, dim in enumerate(dims, start=1):
            embed = PatchEmbed(inputs, dim, *((3, 2) if stage > 1 else (7, 4)))
            setattr(self, f"patch_embed{stage}", embed)
            blocks = [
                Block(dim, heads[stage - 1], reductions[stage - 1])
                for _ in range(depths[stage - 1])
            ]
            setattr(self, f"block{stage}", nn.ModuleList(blocks))
            setattr(self, f"norm{stage}", nn.LayerNorm(dim, eps=1e-6))
            inputs = dim

    def forward(self, x):
        maps = []
        for stage in range(1, 5):
            x = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                x = block(x)
            x = image(getattr(self, f"norm{stage}")(tokens(x)), x)
            maps.append(x)
        return maps


class Embed(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x):
        return image(self.proj(tokens(x)), x)


class SeparableConv(nn.Module):
    def __init__(self, inputs, outputs, dilation):
        super().__init__()
        settings = {"padding": dilation, "dilation": dilation, "groups": inputs}
        self.depthwise_conv = ConvModule(inputs, inputs, 3, **settings)
        self.pointwise_conv = ConvModule(inputs, outputs)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))


class FuseLayer(nn.Module):
    def __init__(self, inputs, channels, dilations):
        super().__init__()
        self.aspp_modules = nn.ModuleList(
            ConvModule(inputs, channels)
            if d == 1
            else SeparableConv(inputs, channels, d)
            for d in dilations
        )
        width = channels * len(dilations)
        self.bottleneck = ConvModule(width, channels, 3, padding=1)

    def forward(self, x):
        return self.bottleneck(torch.cat([m(x) for m in self.aspp_modules], 1))


class DaformerHead(nn.Module):
    def __init__(self, dims, classes, embed_channels, channels, dilations):
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        self.embed_layers = nn.ModuleDict(
            {str(i): Embed(dim, embed_channels) for i, dim in enumerate(dims)}
        )
        width = embed_channels * len(dims)
        self.fuse_layer = FuseLayer(width, channels, dilations)

    def forward(self, maps):
        size = maps[0].shape[2:]
        x = [up(self.embed_layers[str(i)](m), size) for i, m in enumerate(maps)]
        return self.conv_seg(self.fuse_layer(torch.cat(x, 1)))


class SegformerHead(nn.Module):
    def __init__(self, dims, classes, channels):
        super().__init__()
        self.conv_seg = nn.Conv2d(7, classes, 1)
        self.linear_c = nn.ModuleDict(
            {str(i): Embed(dim, channels) for i, dim in enumerate(dims)}
        )
        self.linear_fuse = ConvModule(channels * len(dims), channels)
        self.linear_pred = nn.Conv2d(channels, classes, 1)

    def forward(self, maps):
        size = maps[0].shape[2:]
        x = [up(self.linear_c[str(i)](m), size) for i, m in enumerate(maps)]
        return self.linear_pred(self.linear_fuse(torch.cat(x, 1)))


class UperHead(nn.Module):
    def __init__(self, dims, classes, channels, pool_sizes=(1, 2, 3, 6)):
        super().__init__()
        *finer, last = dims
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvModule(last, channels))
            for size in pool_sizes
        )
        width = last + channels * len(pool_sizes)
        self.bottleneck = ConvModule(width, channels, 3, padding=1)
        self.lateral_convs = nn.ModuleList(ConvModule(d, channels) for d in finer)
        self.fpn_convs = nn.ModuleList(
            ConvModule(channels, channels, 3, padding=1) for _ in finer
        )
        width = channels * len(dims)
        self.fpn_bottleneck = ConvModule(width, channels, 3, padding=1)

    def forward(self, maps):
        *finer, last = maps
        pooled = [up(pool(last), last.shape[2:]) for pool in self.psp_modules]
        levels = [conv(m) for conv, m in zip(self.lateral_convs, finer, strict=True)]
        levels.append(self.bottleneck(torch.cat([last, *pooled], 1)))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + up(levels[i], levels[i - 1].shape[2:])
        smooth = [conv(x) for conv, x in zip(self.fpn_convs, levels[:-1], strict=True)]
        size = smooth[0].shape[2:]
        levels = [up(x, size) for x in (*smooth, levels[-1])]
        return self.conv_seg(self.fpn_bottleneck(torch.cat(levels, 1)))


class ProjectionHead(nn.Module):
    def __init__(self, dims, channels):
        super().__init__()
        width = sum(dims) // len(dims)
        convs = ConvModule(sum(dims), width), ConvModule(width, channels)
        self.convs = nn.Sequential(*convs)

    def forward(self, maps):
        size = maps[0].shape[2:]
        x = torch.cat([up(m, size) for m in maps], 1)
        return F.normalize(self.convs(x), dim=1)


class Network(nn.Module):
    def __init__(self, backbone, decode_head, auxiliary_head):
        super().__init__()
        self.backbone, self.decode_head = backbone, decode_head
        self.auxiliary_head = auxiliary_head

    def forward(self, x):
        maps = self.backbone(x)
        return self.decode_head(maps), self.auxiliary_head(maps)
