"""The prediction head: class, box offsets and mask coefficients of every prior of a level (Sec. 3.2, Fig. 4)."""
from paddle import nn

from layers.protonet import make_net


class PredictionModule(nn.Layer):
    """One head, shared by all pyramid levels in the shipped configs.

    Args:
        in_channels: channels of a pyramid level.
        num_priors: priors in each cell.
        num_classes: C, with background. mask_dim: K.
        extra_head_net: layers before the three branches, in `make_net` notation, or None.
        head_layer_params: options of the three branch convolutions.
        coeff_activation: function applied to the coefficients (tanh, so that prototypes can be subtracted).
    """

    def __init__(self, in_channels, num_priors, num_classes, mask_dim, extra_head_net, head_layer_params,
                 coeff_activation):
        super().__init__()
        self.num_classes = num_classes
        self.mask_dim = mask_dim
        self.coeff_activation = coeff_activation
        if extra_head_net:
            self.upfeature, in_channels = make_net(in_channels, extra_head_net)
        else:
            self.upfeature = nn.Identity()
        self.bbox_layer = nn.Conv2D(in_channels, num_priors * 4, **head_layer_params)
        self.conf_layer = nn.Conv2D(in_channels, num_priors * num_classes, **head_layer_params)
        self.mask_layer = nn.Conv2D(in_channels, num_priors * mask_dim, **head_layer_params)

    def forward(self, x):
        """x [B, in_channels, H, W] -> loc [B, p, 4], conf logits [B, p, C], coeffs [B, p, K]; p = H * W * priors."""
        x = self.upfeature(x)
        loc = flatten_cells(self.bbox_layer(x), 4)
        conf = flatten_cells(self.conf_layer(x), self.num_classes)
        coeffs = self.coeff_activation(flatten_cells(self.mask_layer(x), self.mask_dim))
        return loc, conf, coeffs


def flatten_cells(x, last):
    """[B, A * last, H, W] -> [B, H * W * A, last], cells in row order and the A priors of a cell together."""
    return x.transpose([0, 2, 3, 1]).reshape([x.shape[0], -1, last])
